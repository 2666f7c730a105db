// What an app does with the SDK, in a page. `told` is called once, with what the SDK said.
// eslint-disable-next-line no-unused-vars
function scenario(Leanplum, config, told) {
  const seen = { started: null, variables: 0, greeting: null, errors: [] };
  window.addEventListener('error', (event) => seen.errors.push(String(event.message)));
  Leanplum.setApiPath(config.url);
  Leanplum.setAppIdForProductionMode(config.appId, config.key);
  Leanplum.setRequestBatching(true, 0.2);
  Leanplum.setVariables({ greeting: 'hello' });
  Leanplum.addVariablesChangedHandler(() => { seen.variables += 1; });
  Leanplum.start(config.user, { plan: 'pro', age: 29 }, (success) => {
    seen.started = success;
    for (let index = 0; index < 20; index += 1) {
      if (index === 10) Leanplum.track('Purchase', 9.99, 'info', { sku: 'A-1', currency: 'EUR' });
      else Leanplum.track(`event ${index}`, index, undefined, { index });
    }
    Leanplum.setUserAttributes({ plan: 'team', nickname: null });
    Leanplum.advanceTo('Checkout', 'info', { step: 2 });
    Leanplum.pauseState();
    Leanplum.resumeState();
    Leanplum.pauseSession();
    Leanplum.resumeSession();
    Leanplum.forceContentUpdate(() => {
      seen.greeting = Leanplum.getVariable('greeting');
      Leanplum.stop();
      told(seen);
    });
  });
}
