from .augmentation import RandAffineWindowd as RandAffineWindowd
from .intensity import HuWindowsd as HuWindowsd
from .intensity import WindowHud as WindowHud
from .liver_box import CropToLiverd as CropToLiverd
from .liver_box import RandNarrowBoxd as RandNarrowBoxd
from .load import LoadScand as LoadScand
from .load import MarkUntoldTumorsd as MarkUntoldTumorsd
from .overlap import CountOverlapd as CountOverlapd
from .postprocessing import (
    DropSmallTumorsd as DropSmallTumorsd,
)
from .postprocessing import (
    DropTumorsOffLiverd as DropTumorsOffLiverd,
)
from .postprocessing import (
    FillLiverHolesd as FillLiverHolesd,
)
from .postprocessing import (
    KeepLargestLiverd as KeepLargestLiverd,
)
from .spatial import ToModelGridd as ToModelGridd
