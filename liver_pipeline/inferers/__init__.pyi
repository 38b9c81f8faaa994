from .cascade import CascadeInferer as CascadeInferer
from .liver import Limits as Limits
from .streaming import StreamingInferer as StreamingInferer
