"""The forms once more, written down from their papers with scalars and the math module alone."""

from math import exp


def chinchilla(p, N, U, D, s):
    return p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]


def _data_constrained(p, N, U, D, factor, R_N_star, R_D_star):
    alpha = p["alpha"]
    G = (factor * p["A"] / p["B"]) ** (1 / (2 * alpha))
    unique = U if D > U else D
    N_opt = G * G * unique
    U_N = N if N_opt > N else N_opt
    R_N, R_D = N / U_N - 1, D / unique - 1
    N_eff = U_N + U_N * R_N_star * (1 - exp(-R_N / R_N_star))
    D_eff = unique + unique * R_D_star * (1 - exp(-R_D / R_D_star))
    return p["E"] + factor * p["A"] / N_eff**alpha + p["B"] / D_eff**alpha


def muennighoff(p, N, U, D, s):
    return _data_constrained(p, N, U, D, 1.0, p["R_N_star"], p["R_D_star"])


def power(p, N, U, D, s):
    return _data_constrained(p, N, U, D, s ** p["epsilon"], p["R_N_star"], p["R_D_star"])


def sparse(p, N, U, D, s):
    factor = s ** p["epsilon"] + p["c"] * (1 - s) ** p["mu"]
    R_N_star = p["gamma1"] * (1 + p["c11"] * (1 - s) - p["c21"] * (1 - s) ** 2)
    R_D_star = p["gamma2"] * (1 + p["c12"] * (1 - s) - p["c22"] * (1 - s) ** 2)
    return _data_constrained(p, N, U, D, factor, R_N_star, R_D_star)


LAWS = {"chinchilla": chinchilla, "muennighoff": muennighoff, "power": power, "sparse": sparse}
