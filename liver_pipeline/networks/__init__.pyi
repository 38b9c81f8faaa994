from .acceleration import accelerated as accelerated
from .acceleration import amp_options as amp_options
from .acceleration import place as place
from .acceleration import settle_randomness as settle_randomness
from .acceleration import usable_device as usable_device
from .deep_supervision import DeepSupervised as DeepSupervised
from .encoders import (
    EncoderWeights as EncoderWeights,
)
from .encoders import (
    FcnResNet50 as FcnResNet50,
)
from .encoders import (
    deconvolution_unet as deconvolution_unet,
)
from .encoders import (
    encoder_network as encoder_network,
)
from .resenc import residual_encoder_unet as residual_encoder_unet
from .slicewise import Slicewise as Slicewise
from .unet3d import UNet3d as UNet3d
