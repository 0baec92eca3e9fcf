"""What a whole report's records may look like."""

from itertools import product

import numpy as np
import pandas as pd
from reporting.handmade import classes, records, row


def plausible() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three models, five threat models, twelve attacks, eight classes, six cases: records and class records."""
    rng = np.random.default_rng(0)
    budgets = {"pgd": (2 / 255, 4 / 255, 8 / 255), "gn": (4 / 255, 8 / 255), "vafa": (10.0, 20.0, 30.0), "dfb": (None,)}
    budgets["corruption"] = (1.0, 3.0, 5.0)
    params = {"vafa": {"filter": "band"}, "corruption": {"kind": "gaussian_noise", "scope": "volume"}}
    models = ("unet", "unetr", "swinunetr-adversarially-trained")
    rows = []
    for attack, source, target, case in product(budgets, models, models, range(6)):
        for place, budget in enumerate(budgets[attack]):
            drop = rng.uniform(0.05, 0.15) * (place + 1) * (1 if source == target else 0.3)
            made = row(
                attack,
                params.get(attack),
                **{"source": source, "target": target, "case": case, "budget": budget},
                **{"dsc": 0.9 - drop, "dsc_clean": 0.9, "ssim_body": 1 - drop / 3, "lpips_body": drop / 4},
                **{"dsc_foreground": 0.85 - 1.2 * drop, "dsc_foreground_clean": 0.85},
                **{"l2_body": 90 * drop, "energy_low": drop / 9, "energy_middle": drop / 20, "energy_high": drop / 30},
                **{"seam_energy": 1 + drop, "attack_seconds": 40 * drop, "num_forwards": 20, "num_backwards": 20},
            )
            rows.append(made)
    organs = {f"a long organ {index}": (0.7, 0.9) for index in range(9)}
    return records(*rows), classes(*((made, organs) for made in rows))
