from .ensemble import Ensemble as Ensemble
from .ensemble import build_fused as build_fused
from .ensemble import select_ensemble as select_ensemble
from .fit import fit_fused as fit_fused
from .member import Member as Member
from .member import MemberState as MemberState
from .train import train_fused as train_fused
