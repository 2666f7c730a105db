// The API reference at /docs. It runs before Scalar's bundle, and starts it when that is loaded.

// The page's Content-Security-Policy allows style elements with its nonce only. The bundle inserts some without one.
const nonce = document.querySelector('meta[property="csp-nonce"]').content;
const createElement = document.createElement.bind(document);
document.createElement = (name, options) => {
  const element = createElement(name, options);
  if (element instanceof HTMLStyleElement) element.nonce = nonce;
  return element;
};

addEventListener("DOMContentLoaded", () => {
  const place = document.getElementById("reference");
  Scalar.createApiReference(place, {
    url: place.dataset.document,
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
