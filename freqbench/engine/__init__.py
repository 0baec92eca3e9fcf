"""How a plan is carried out: a plain worker, the order of units, and the engines that feed it."""
