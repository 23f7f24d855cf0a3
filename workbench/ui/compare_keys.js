// Ctrl+Enter in the question asks all; Esc stops all, wherever the focus is in the pane or on nothing.
if (!window.compareKeys) {
    window.compareKeys = true;
    document.addEventListener('keydown', (event) => {
        const pane = document.getElementById('compare');
        if (!pane || pane.offsetParent === null || event.defaultPrevented) return;
        const press = (id) => document.getElementById(id)?.click();
        if (event.key === 'Escape') press('compare-stop');
        else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && event.target.closest('#compare-question')) {
            event.preventDefault();
            press('compare-ask');
        }
    });
}
