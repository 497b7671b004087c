"""Scores of others: random play and human testers on Atari, and Table 1 of the SEER paper."""

from collections.abc import Mapping
from dataclasses import dataclass

ATARI_SOURCE = (
    "Wang et al. (2016), Dueling Network Architectures for Deep Reinforcement Learning, Table 2, as DQN Zoo lists it: "
    "games begin with up to 30 no-ops and end after 30 minutes"
)
PAPER_SOURCE = (
    "Chen et al. (2021), Improving Computational Efficiency in Visual Reinforcement Learning via Stored Embeddings, "
    "Table 1: mean ± standard deviation of five runs"
)
PAPER_ALGO = "rainbow"


@dataclass(frozen=True)
class PaperScore:
    """A score of the paper: mean and standard deviation over its runs."""

    mean: float
    std: float


@dataclass(frozen=True)
class PaperScores:
    """The paper's scores of one setting on one game: at 45T FLOPs, and at 500,000 steps in 0.07 GB."""

    at_flops: PaperScore
    at_steps: PaperScore


# Game: random play, human.
_ATARI = """
Alien 227.8 7127.7
Amidar 5.8 1719.5
Assault 222.4 742.0
Asterix 210.0 8503.3
Asteroids 719.1 47388.7
Atlantis 12850.0 29028.1
BankHeist 14.2 753.1
BattleZone 2360.0 37187.5
BeamRider 363.9 16926.5
Berzerk 123.7 2630.4
Bowling 23.1 160.7
Boxing 0.1 12.1
Breakout 1.7 30.5
Centipede 2090.9 12017.0
ChopperCommand 811.0 7387.8
CrazyClimber 10780.5 35829.4
Defender 2874.5 18688.9
DemonAttack 152.1 1971.0
DoubleDunk -18.6 -16.4
Enduro 0.0 860.5
FishingDerby -91.7 -38.7
Freeway 0.0 29.6
Frostbite 65.2 4334.7
Gopher 257.6 2412.5
Gravitar 173.0 3351.4
Hero 1027.0 30826.4
IceHockey -11.2 0.9
Jamesbond 29.0 302.8
Kangaroo 52.0 3035.0
Krull 1598.0 2665.5
KungFuMaster 258.5 22736.3
MontezumaRevenge 0.0 4753.3
MsPacman 307.3 6951.6
NameThisGame 2292.3 8049.0
Phoenix 761.4 7242.6
Pitfall -229.4 6463.7
Pong -20.7 14.6
PrivateEye 24.9 69571.3
Qbert 163.9 13455.0
Riverraid 1338.5 17118.0
RoadRunner 11.5 7845.0
Robotank 2.2 11.9
Seaquest 68.4 42054.7
Skiing -17098.1 -4336.9
Solaris 1236.3 12326.7
SpaceInvaders 148.0 1668.7
StarGunner 664.0 10250.0
Surround -10.0 6.5
Tennis -23.8 -8.3
TimePilot 3568.0 5229.2
Tutankham 11.4 167.6
UpNDown 533.4 11693.2
Venture 0.0 1187.5
VideoPinball 16256.9 17667.9
WizardOfWor 563.5 4756.5
YarsRevenge 3092.9 54576.9
Zaxxon 32.5 9173.3
"""

# Game: at 45T FLOPs Rainbow, then Rainbow + SEER; at 500,000 steps in 0.07 GB the same. Each as mean and deviation.
_PAPER = """
Alien 992.0 152.7 1172.6 239.0 1038.4 101.1 1134.6 452.9
Amidar 144.0 27.4 250.5 47.4 121.0 31.2 165.3 47.6
BankHeist 145.8 61.2 276.6 98.1 161.6 57.7 151.8 65.8
CrazyClimber 21580.0 3514.6 28066.0 4108.5 10498.0 1387.8 17620.0 4418.4
Krull 2799.5 468.1 3277.5 440.5 2215.7 336.9 3069.2 377.6
Qbert 2325.5 1152.7 4123.5 1385.5 2430.5 658.8 3231.0 1567.6
RoadRunner 10376.0 2886.0 11794.0 1745.3 10612.0 2059.3 13064.0 2489.2
Seaquest 402.8 48.4 561.2 100.5 262.8 19.1 336.8 45.9
"""


def _table(text: str) -> Mapping[str, tuple[float, ...]]:
    rows = (line.split() for line in text.strip().splitlines())
    return {game: tuple(map(float, figures)) for game, *figures in rows}


ATARI = _table(_ATARI)
"""Score of random play and of a human by the game's name."""
PAPER = _table(_PAPER)


def human_normalized(game: str, score: float) -> float | None:
    """Return 0 for the score of random play and 1 for a human's; None for an environment without these scores."""
    if game not in ATARI:
        return None
    random, human = ATARI[game]
    return (score - random) / (human - random)


def paper_scores(game: str, algo: str, *, frozen: bool) -> PaperScores | None:
    """Return the paper's scores of Rainbow, with SEER if `frozen`; None for what its Table 1 does not have."""
    if algo != PAPER_ALGO or game not in PAPER:
        return None
    figures = PAPER[game]
    first, second = (2, 6) if frozen else (0, 4)
    return PaperScores(PaperScore(*figures[first : first + 2]), PaperScore(*figures[second : second + 2]))
