// Messages with an npm library: node node_libraries.js NAME URL KEY BATCH < messages; prints what went wrong.
const [name, url, key, batch] = process.argv.slice(2);
const messages = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const wrong = [];

const args = ({ type, ...message }) => {
  if (message.timestamp) message.timestamp = new Date(message.timestamp);
  return [type, message];
};

async function segment() {
  const { Analytics } = require('@segment/analytics-node');
  const analytics = new Analytics({ writeKey: key, host: url, path: '/segment/v1/batch', flushAt: Number(batch) });
  analytics.on('error', (error) => wrong.push(`${error.code}: ${error.reason}`));
  for (const message of messages) {
    const [type, rest] = args(message);
    analytics[type](rest);
  }
  await analytics.closeAndFlush();
}

async function rudder() {
  const RudderAnalytics = require('@rudderstack/rudder-sdk-node');
  const client = new RudderAnalytics(key, { dataPlaneUrl: `${url}/segment`, flushAt: Number(batch), logLevel: 'none',
    errorHandler: (error) => wrong.push(String(error)) });
  client.flushed = true; // else the first message goes alone, and without waiting for the others
  await Promise.all(messages.map((message) => new Promise((done) => {
    const [type, rest] = args(message);
    client[type](rest, done);
  })).concat(client.flush()));
}

({ segment, rudder })[name]().then(() => process.stdout.write(JSON.stringify(wrong)));
