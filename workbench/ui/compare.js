// Tokens of an answer, and the alternatives beside them: chosen by mouse, or by arrow keys and Enter.
const send = (target) => {
    const token = target.closest('[data-token]'), choice = target.closest('[data-choice]');
    if (token) {
        element.querySelectorAll('[data-token][tabindex="0"]').forEach((one) => { one.tabIndex = -1; });
        token.tabIndex = 0;
        trigger('click', { token: Number(token.dataset.token) });
    } else if (choice) trigger('click', { choice: Number(choice.dataset.choice) });
};
element.addEventListener('click', (event) => send(event.target));
element.addEventListener('keydown', (event) => {
    const token = event.target.closest('[data-token]');
    if (!token || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = [...element.querySelectorAll('[data-token]')], here = all.indexOf(token);
    const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1,
        Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) {
        event.preventDefault();
        const next = all[Math.min(Math.max(to, 0), all.length - 1)];
        token.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
    } else if (event.key === 'Enter' || event.key === ' ') {
        event.preventDefault();
        send(token);
    }
});
