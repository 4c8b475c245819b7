"""Filters of the least-squares projections of BSS Eval: correlations, Gram matrices and their Cholesky factors.

Letters: R correlations, G Gram matrix, D right-hand side, C and Cj filters of P and P_j, L filter length, X spectra.
Axes: n reference, c channel, t sample, a and b signals (source and channel in one), f bin, m block in a chunk, p problem.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mss.cpu import shared
from mss.metrics._blocks import WORKSPACE, block_size, cut, power_of_two

__all__ = ["filters"]


def filters(s: Tensor, y: Tensor, length: int, every: bool) -> tuple[Tensor, Tensor]:
    """Filters C (n·c in, L, n·c out) of P for all estimates, and Cj (n, e, c in, L, c out) of P_j for the pairs."""
    n, c = s.shape[:2]
    R = _correlations(s, y, length)  # (n·c, 2·n·c, L)
    Rs, D = R[:, : n * c], R[:, n * c :].transpose(1, 2)  # D (a, lag, b)
    R = torch.cat((Rs.transpose(0, 1).flip(-1)[..., :-1], Rs), -1)  # lags -(L-1)..L-1, for R_ab(-τ) = R_ba(τ)

    Gj = torch.stack([_gram(R[i : i + c, i : i + c], length) for i in range(0, n * c, c)])
    Cj = _solve(Gj, D.reshape(n, c * length, n * c)).reshape(n, c, length, n, c)  # all pairs cost no more than n
    Cj = Cj.permute(0, 3, 1, 2, 4) if every else Cj.diagonal(dim1=0, dim2=3).movedim(-1, 0).unsqueeze(1)
    if n == 1:
        return Cj[0, 0], Cj
    C = _solve(_gram(R, length)[None], D.reshape(1, n * c * length, n * c))
    return C.reshape(n * c, length, n * c), Cj


def _gram(R: Tensor, length: int) -> Tensor:
    """Block-Toeplitz Gram matrix (a·L, a·L) from two-sided correlations (a, a, 2L-1): (a,i), (b,j) holds R_ab(i-j)."""
    a = torch.arange(R.shape[0], device=R.device)
    i = torch.arange(length, device=R.device)
    lag = i[:, None, None] - i + length - 1  # (i, 1, j)
    G = R[a[:, None, None, None], a[:, None], lag]  # (a, i, b, j), gathered straight into place
    G = G.reshape(len(a) * length, -1)
    G.diagonal().add_(torch.finfo(G.dtype).eps)  # as museval: makes the empty rows of a hard-panned source solvable
    return G


def _solve(G: Tensor, D: Tensor) -> Tensor:
    """Solution of G C = D (p, rows, columns) by Cholesky, or least squares where G (overwritten) is singular."""
    factor, failed = torch.linalg.cholesky_ex(G)
    C = torch.cholesky_solve(D, factor)
    del factor
    for p in failed.nonzero().flatten().tolist():
        C[p] = _least_squares(G[p], D[p])
    return C


def _least_squares(G: Tensor, D: Tensor) -> Tensor:
    """Least squares solution of G C = D for a singular G (rows, rows) >= 0, which is overwritten.

    A channel that repeats another, such as a bass in mono, is common, and an SVD of 4096 rows takes half a minute. A
    ridge at rounding level makes G definite; repeating the solve on what is left over then removes the ridge's effect,
    by a factor ridge / eigenvalue each time, from all but the null directions, where C stays at zero.
    """
    ridge = 0.0
    step = torch.finfo(G.dtype).eps * G.diagonal().sum()
    for _ in range(8):
        G.diagonal().add_(step)
        ridge = ridge + step
        factor, failed = torch.linalg.cholesky_ex(G)
        if not failed:
            break
        step = 16 * step
    else:
        raise ValueError("the correlations of the references overflow; scale references and estimates to about +-1.")
    C = torch.zeros_like(D)
    for _ in range(4):
        C = C + torch.cholesky_solve(D - G @ C + ridge * C, factor)
    return C


def _correlations(s: Tensor, y: Tensor, length: int) -> Tensor:
    """R_ab(τ) = Σ_t s_a(t) x_b(t+τ), lags 0 ≤ τ < length, x all of s and y: (n, c, t) twice -> (n·c, 2·n·c, length).

    Blocks of all signals are zero-padded, so that each needs one FFT; the products within a block are summed on the
    spectra. What this misses, the end of a block of s against the beginning of the next of x, is as short as the lags.
    """
    n, c, t = s.shape
    n_fft, n_join = block_size(length), power_of_two(2 * length)
    step = n_fft - length + 1
    lags = length - 1
    m = max(1, WORKSPACE // (n_fft * 2 * n * c))  # blocks at a time
    add_products = _add_products(s.device)

    def spectra(starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        within = s.new_zeros((n * c, 2 * n * c, n_fft // 2 + 1), dtype=torch.complex128)
        across = s.new_zeros((n * c, 2 * n * c, n_join // 2 + 1), dtype=torch.complex128)
        padded = s.new_zeros((2 * n * c, m, n_fft), dtype=torch.float64)
        X = padded.new_empty((2 * n * c, m, n_fft // 2 + 1), dtype=torch.complex128)
        x = padded.new_empty((2 * n * c, m * step + lags))
        for start in starts:
            cut(s, y, start, (0, t), x)
            padded[..., :step] = x[:, : m * step].unflatten(-1, (m, step))
            torch.fft.rfft(padded, out=X)
            add_products(X[: n * c], X, within, True)
            if lags:
                ends, beginnings = padded[: n * c, :, step - lags : step], x[:, step:].unfold(-1, lags, step)
                add_products(torch.fft.rfft(ends, n=n_join), torch.fft.rfft(beginnings, n=n_join), across, False)
        return within, across

    within, across = shared(spectra, range(0, t, m * step), s.device)
    a, b = torch.tril_indices(n * c, n * c, -1, device=s.device)
    within[a, b] = within[b, a].conj()
    R = torch.fft.irfft(within, n=n_fft)[..., :length]
    return R + torch.fft.irfft(across, n=n_join).roll(lags, -1)[..., :length]


def _add_products(device: torch.device) -> Callable[[Tensor, Tensor, Tensor, bool], None]:
    """What adds the sum over m of conj(X) (a, m, f) times Y (b, m, f) to R (a, b, f); `upper`: it may leave out a > b."""
    if device.type == "cpu":
        from mss.metrics import _compiled  # compiled code is loaded where it is wanted

        return lambda X, Y, R, upper: _compiled.add_products(X.numpy(), Y.numpy(), R.numpy(), upper)
    # bins lead, so that one batched product (f, a, m) @ (f, m, b) serves all pairs
    return lambda X, Y, R, upper: R.add_((X.permute(2, 0, 1).conj() @ Y.permute(2, 1, 0)).permute(1, 2, 0))
