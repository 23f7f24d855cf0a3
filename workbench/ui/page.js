// What Gradio leaves out of its tabs: the arrow keys, Home and End, as the ARIA Authoring Practices have them.
document.addEventListener('keydown', (event) => {
    const tab = event.target.closest && event.target.closest('[role=tab]');
    if (!tab || event.altKey || event.ctrlKey || event.metaKey) return;
    const list = tab.closest('[role=tablist]') || tab.parentElement;
    const tabs = [...list.querySelectorAll('[role=tab]')].filter((one) => one.offsetParent !== null);
    const here = tabs.indexOf(tab);
    const to = {
        ArrowRight: (here + 1) % tabs.length,
        ArrowLeft: (here + tabs.length - 1) % tabs.length,
        Home: 0,
        End: tabs.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    tabs[to].focus();
    tabs[to].click();
});
