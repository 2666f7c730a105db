// Tracks an event with the generated client, reads its receipt, and receives a typed error.
import { getReceipt, trackEvent, type Problem, type Receipt } from "./client";
import { client } from "./client/client.gen";

declare const process: { argv: string[] };
const [url, key] = process.argv.slice(2);

async function main(): Promise<void> {
  client.setConfig({ baseUrl: url, auth: () => key });
  const tracked = await trackEvent({
    body: { id: "typescript-1", userId: "user-ts", event: "Purchase", value: 9.99, params: { sku: "A-1" } },
    headers: { Prefer: "wait=20" },
  });
  if (tracked.data === undefined) throw new Error(JSON.stringify(tracked.error));
  const receipt: Receipt = tracked.data;
  const found = await getReceipt({ path: { id: receipt.id } });
  const refused = await trackEvent({ body: { userId: "user-ts", event: "" } });
  const problem: Problem | undefined = refused.error;
  console.log(
    JSON.stringify({
      tracked: receipt.status,
      found: found.data?.status,
      problem: problem?.type,
      pointer: problem?.errors?.[0]?.pointer,
    }),
  );
}

void main();
