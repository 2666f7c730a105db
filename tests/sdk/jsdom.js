// The scenario in jsdom: node jsdom.js SDK_FILE URL APP_ID KEY USER; prints what the SDK said. Runs until it is killed,
// so that what the SDK still has to send goes out.
const fs = require('fs');
const path = require('path');
const { JSDOM, VirtualConsole } = require('jsdom');

const [sdk, url, appId, key, user] = process.argv.slice(2);
const console_ = new VirtualConsole();
console_.on('jsdomError', (error) => process.stderr.write(`${error.message}\n`));
const { window } = new JSDOM('<!doctype html>', {
  url: 'http://shop.example/', runScripts: 'dangerously', pretendToBeVisual: true, virtualConsole: console_,
});
window.eval(fs.readFileSync(sdk, 'utf8'));
window.eval(fs.readFileSync(path.join(__dirname, 'scenario.js'), 'utf8'));
const Leanplum = window.Leanplum.default || window.Leanplum;
window.scenario(Leanplum, { url, appId, key, user }, (seen) => process.stdout.write(`${JSON.stringify(seen)}\n`));
setInterval(() => {}, 1000);
