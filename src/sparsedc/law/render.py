"""Fits and comparisons as plain text for a terminal."""

from sparsedc.law.fit import Fit
from sparsedc.law.select import Selection, comparison
from sparsedc.law.validate import KINDS


def render_fit(fit: Fit) -> str:
    """A fit in a dozen lines: status first, because everything after it depends on that."""
    lines = [f"{fit.form}: {fit.status}", *(f"  {reason}" for reason in fit.reasons)]
    left_out = f", {fit.n_left_out} diverged ones left out" if fit.n_left_out else ""
    lines.append(f"{fit.n_runs} runs{left_out}; N counts {fit.params} parameters")
    if fit.objective is not None:
        delta = f" {fit.delta:g}" if fit.delta is not None else ""
        what = "ln loss" if fit.residuals == "log" else "loss"
        lines.append(
            f"objective {fit.objective:.8g} ({fit.likelihood}{delta} of {what})"
            f", RMSE {fit.rmse:.4g} nats per token, AICc {fit.aicc:.2f}"
        )
        lines.append(f"{fit.share_at_best:.0%} of {fit.starts} starts reached the best objective")
    known = fit.status != "not identifiable"
    if not known:
        lines.append("one of many optima that the runs cannot tell apart; no value is an estimate:")
    for name, value in fit.parameters.items():
        line = f"  {name:<18} {value:< 12.6g}"
        if name in fit.fixed:
            line += " held"
        elif name in fit.at_bound:
            line += " at its bound"
        if fit.intervals is not None and name in fit.intervals:
            line += f" {_interval(*fit.intervals[name], fit.level or 0.95)}"
        lines.append(line.rstrip())
    for rival in fit.rivals if known else ():
        values = ", ".join(f"{name} {rival['parameters'][name]:.4g}" for name in _moved(fit, rival["parameters"]))
        lines.append(f"not ruled out either: objective {rival['objective']:.8g} at {values}")
    for quantity, profile in (fit.profiles or {}).items():
        low, high = profile["low"], profile["high"]
        line = f"profile of {quantity}: {profile['best']:.4g}, {_interval(low, high, profile['level'])}"
        if low is None or high is None:
            sides = " or ".join(side for side, end in (("below", low), ("above", high)) if end is None)
            line += f"; flat: the runs do not bound it {sides}"
        lines.append(line)
    return "\n".join(lines)


def render_comparison(selection: Selection) -> str:
    """Forms, baselines and seed noise side by side, errors in nats per token, and what could not be told."""
    titles = {
        "name": "",
        "parameters": "parameters",
        "delta_aicc": "ΔAICc",
        "rmse_fit": "fitted",
        "cv_size": "left-out size",
        "cv_density": "left-out density",
        "cv_unique_tokens": "left-out U",
        "cv_compute": "most compute",
        "rmse_extrapolation": "extrapolated",
        "status": "status",
    }
    table = comparison(selection)[list(titles)].rename(columns=titles)
    table = table.astype({"parameters": "float64"}).fillna({"status": "-"})
    numbers = {"parameters": "{:.0f}".format, "ΔAICc": "{:.1f}".format}
    text = table.to_string(index=False, na_rep="-", float_format="{:.4f}".format, formatters=numbers)
    best = selection.best
    why = "the lowest AICc of the forms that the runs identify" if best.usable else "but the runs identify no form"
    chosen = f"Chosen: {best.form} ({best.status}), {why}."
    notes = [f"Law: {best.form}, by its published constants." if best.status == "published" else chosen]
    notes += ["Errors are RMSE in nats per token on the runs named, which the law was not fitted to, but for `fitted`."]
    notes += [f"{fit.form}: {'; '.join(fit.reasons)}" for fit in selection.fits if fit.reasons]
    for name, kinds in selection.cross_validation.items():
        unknown = [fold.left_out for kind in KINDS for fold in kinds.get(kind, ()) if fold.rmse is None]
        if unknown:
            notes.append(f"{name}: not determined without {', '.join(unknown)}")
    if selection.noise is None:
        notes.append("seed noise: unknown, no configuration was run with several seeds")
    return "\n".join([text, *notes])


def _interval(low: float | None, high: float | None, level: float) -> str:
    ends = ("open" if end is None else f"{end:.4g}" for end in (low, high))
    return f"{level:.0%} interval {' to '.join(ends)}"


def _moved(fit: Fit, parameters: dict[str, float]) -> list[str]:
    """The parameters in which another optimum differs by more than a tenth."""
    return [name for name, value in parameters.items() if abs(value - fit.parameters[name]) > 0.1 * abs(value)]
