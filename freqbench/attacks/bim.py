"""The basic iterative method.  Kurakin et al., ICLR workshop 2017, arXiv:1607.02533."""

from dataclasses import dataclass

from freqbench.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class BIM(PGD):
    """x <- P(x + step_size * sign(dL/dx)) from the clean volume: PGD without a random start and without that parameter.

    Differs from the paper: steps and step size are the released command line's (20 and 0.01); the paper takes steps of
    1/255, min(255 eps + 4, 1.25 * 255 eps) of them. Differs from the released code: nothing.
    """

    name = "bim"
    random_start = False
