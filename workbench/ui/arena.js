// The arena's keys press its buttons; only while the tab is shown, no text is being typed, and they are switched on.
document.addEventListener('keydown', (event) => {
    const name = {
        1: 'left', 2: 'right', 3: 'tie', 4: 'both-bad', ArrowLeft: 'left', ArrowRight: 'right', n: 'start',
    }[event.key];
    if (!name || event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.defaultPrevented) return;
    const at = event.target.closest ? event.target : document.body;
    if (at.closest('input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true]')) return;
    if (event.key.startsWith('Arrow') && at.closest('input, [role=tab], [role=region], summary')) return;
    const keys = document.querySelector('#arena-keys input');
    const button = document.getElementById(`arena-${name}`);
    if (!keys || !keys.checked || !button || button.disabled || button.offsetParent === null) return;
    event.preventDefault();
    button.click();
});
