// The API reference at /docs. It runs before Scalar's bundle, and starts it when that is loaded.

// The page's Content-Security-Policy allows style elements with its nonce only. The bundle inserts some without one.
const nonce = document.querySelector('meta[property="csp-nonce"]').content;
const createElement = document.createElement.bind(document);
document.createElement = (name, options) => {
  const element = createElement(name, options);
  if (element instanceof HTMLStyleElement) element.nonce = nonce;
  return element;
};

// Scalar sends each optional parameter that has an example: an id that was used, or two filters that exclude each other.
function withoutOptionalExamples(api) {
  const operations = Object.values(api.paths).flatMap(Object.values);
  const shared = Object.values(api.components.parameters ?? {});
  for (const parameter of [...shared, ...operations.flatMap((operation) => operation.parameters ?? [])]) {
    if (parameter.required) continue;
    for (const part of [parameter, parameter.schema ?? {}]) {
      delete part.example;
      delete part.examples;
    }
  }
  return api;
}

addEventListener("DOMContentLoaded", async () => {
  const place = document.getElementById("reference");
  const api = await (await fetch(place.dataset.document)).json();
  Scalar.createApiReference(place, {
    content: withoutOptionalExamples(api),
    servers: [{ url: location.origin + place.dataset.prefix }],
    persistAuth: true,
    authentication: { preferredSecurityScheme: "Bearer" },
    documentDownloadType: "none",
    hiddenClients: [],
    hideDarkModeToggle: true, // the page follows the system, as all pages do
    // What would lead to other hosts:
    withDefaultFonts: false,
    telemetry: false,
    hideClientButton: true,
    showDeveloperTools: "never",
    agent: { disabled: true },
    mcp: { disabled: true },
  });
});
