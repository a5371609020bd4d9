"""The forms once more, written down from their papers with scalars and the math module alone."""

from math import exp

from scipy.optimize import brentq


def chinchilla(p, N, U, D, s):
    return p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]


def gadre(p, N, U, D, s):
    C, M = 6 * N * D, D / N
    return p["E"] + (p["a"] * M ** p["eta"] + p["b"] * M ** -p["eta"]) * C ** -p["eta"]


def frantar(p, N, U, D, s):
    """With (1 − S)^b for s^b, and their a_S, c_S times the A that is divided out here."""
    sparsity = 1 - s
    a, c = p["A"] * p["a_S"], p["A"] * (1 - p["a_S"])
    return (a * (1 - sparsity) ** p["b_S"] + c) * (1 / N) ** p["alpha"] + p["B"] / D ** p["beta"] + p["E"]


def _data_constrained(p, N, U, D, factor, R_N_star, R_D_star):
    alpha, beta = p["alpha"], p.get("beta", p["alpha"])
    unique = U if D > U else D
    G = (alpha * factor * p["A"] / (beta * p["B"])) ** (1 / (alpha + beta))
    # The compute C = 6 N D at which `unique` is the optimal D, and the optimal N of that compute (Hoffmann et al.).
    C = 6 * (G * unique) ** ((alpha + beta) / alpha)
    N_opt = G * (C / 6) ** (beta / (alpha + beta))
    U_N = N if N_opt > N else N_opt
    R_N, R_D = N / U_N - 1, D / unique - 1
    N_eff = U_N + U_N * R_N_star * (1 - exp(-R_N / R_N_star))
    D_eff = unique + unique * R_D_star * (1 - exp(-R_D / R_D_star))
    penalty = p["P"] * R_D ** p["kappa"] * (N / unique) ** p["lambda"] if "P" in p else 0.0
    return p["E"] + factor * p["A"] / N_eff**alpha + p["B"] / D_eff**beta + penalty


def _coupled(p, N, U, D, factor, R_N_star, R_D_star):
    """The optimal N for `unique` tokens is where nothing is gained by a little more of N for as much less of D."""
    alpha, beta, q = p["alpha"], p["beta"], p["q"]
    unique = U if D > U else D

    def norm(N, D):
        return ((factor * p["A"] / N**alpha) ** q + (p["B"] / D**beta) ** q) ** (1 / q)

    def slope(log_N):
        up, down = (norm(exp(log_N + step), unique * exp(-step)) for step in (1e-5, -1e-5))
        return (up - down) / norm(exp(log_N), unique)

    N_opt = exp(brentq(slope, 0, 100))
    U_N = N if N_opt > N else N_opt
    R_N, R_D = N / U_N - 1, D / unique - 1
    N_eff = U_N + U_N * R_N_star * (1 - exp(-R_N / R_N_star))
    D_eff = unique + unique * R_D_star * (1 - exp(-R_D / R_D_star))
    return p["E"] + norm(N_eff, D_eff)


def overfit(p, N, U, D, s):
    unique = U if D > U else D
    penalty = p["P"] * (D / unique - 1) ** p["kappa"] * (N / unique) ** p["lambda"]
    return chinchilla(p, N, U, D, s) + penalty


def _constant(p, s):
    return p["R_N_star"], p["R_D_star"]


def _step(p, s):
    return (p["R_N_star_sparse"], p["R_D_star_sparse"]) if s < 1 else (p["R_N_star"], p["R_D_star"])


def _quadratic(p, s):
    return (
        p["gamma1"] * (1 + p["c11"] * (1 - s) - p["c21"] * (1 - s) ** 2),
        p["gamma2"] * (1 + p["c12"] * (1 - s) - p["c22"] * (1 - s) ** 2),
    )


def _none(p, s):
    return 1.0


def _power(p, s):
    return s ** p["epsilon"]


def _frantar(p, s):
    return p["a_S"] * s ** p["b_S"] + 1 - p["a_S"]


def _paper(p, s):
    return s ** p["epsilon"] + p["c"] * (1 - s) ** p["mu"]


def _family(factor, stars):
    return lambda p, N, U, D, s: _data_constrained(p, N, U, D, factor(p, s), *stars(p, s))


LAWS = {
    "chinchilla": chinchilla,
    "gadre": gadre,
    "frantar": frantar,
    "muennighoff": _family(_none, _constant),
    "power": _family(_power, _constant),
    "sparse": _family(_paper, _quadratic),
    "overfit": overfit,
    "muennighoff:untied": _family(_none, _constant),
    "power:overfit": _family(_power, _constant),
    "sparse:power,step": _family(_power, _step),
    "sparse:frantar,untied,overfit": _family(_frantar, _quadratic),
    "power:untied,coupled": lambda p, N, U, D, s: _coupled(p, N, U, D, _power(p, s), *_constant(p, s)),
}
