"""Evaluation of checkpoints, artifacts and running deployments on labelled rows, by the same code.

`places` opens what is evaluated; `classes`, `slots` and `texts` measure its answers; `bootstrap` gives the
intervals; `speed` takes times; `evaluate` does it all, and `comparison` sets two side by side. `report` and
`plots` write what was found. `calibration` finds a temperature and a threshold. Only `checkpoint` needs
torch.
"""
