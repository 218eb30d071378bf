"""Real layers as data: each with the network it comes from and how often it occurs there.

One row gives a kernel to check, a test, a benchmark and something to tune. Origins are
``network:layer*count``, or ``network@8:layer*count`` for a batch of 8 images. Sizes and counts are
those of the networks as published; the light networks of the onnx package have those of their
graphs. Convolutions have the bias that batch normalisation folds into. Where the activation comes
after a residual sum, the layer has it too, because it runs in the same kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmconv.errors import InputError


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes
    ----------
    origin : str
        ``network:layer*count``.
    problem : str
        The problem's text.
    """

    origin: str
    problem: str

    @property
    def network(self) -> str:
        """Name of the network, without the batch."""
        return self.origin.partition(":")[0].partition("@")[0]

    @property
    def count(self) -> int:
        """How often the layer occurs in its network."""
        return int(self.origin.rpartition("*")[2]) if "*" in self.origin else 1


_BIAS = ":bias=true"
_RELU = _BIAS + ":activation=relu"
_RELU6 = _BIAS + ":activation=relu6"
_LEAKY = _BIAS + ":activation=leaky_relu,0.1"
_SILU = _BIAS + ":activation=silu"
_HARDSWISH = _BIAS + ":activation=hardswish"

#: The six of ResNet-50 that take most of its time.
SIX = (
    Layer("resnet50:res2_branch2b*3", "conv2d:1x64x56x56:64x3x3:padding=1" + _RELU),
    Layer("resnet50:res2_branch2c+res2a_branch1*4", "conv2d:1x64x56x56:256x1x1" + _RELU),
    Layer("resnet50:res3_branch2b*3", "conv2d:1x128x28x28:128x3x3:padding=1" + _RELU),
    Layer("resnet50:res4_branch2b*5", "conv2d:1x256x14x14:256x3x3:padding=1" + _RELU),
    Layer("resnet50:res5_branch2b*2", "conv2d:1x512x7x7:512x3x3:padding=1" + _RELU),
    Layer("resnet50:res4_branch2a*5", "conv2d:1x1024x14x14:256x1x1" + _RELU),
)

#: The rest of ResNet-50 (He et al., 2015, with the stride in the 3×3), and ResNeXt-50 32x4d.
_RESNET = (
    Layer("resnet50:conv1", "conv2d:1x3x224x224:64x7x7:stride=2:padding=3" + _RELU),
    Layer("resnet50:pool1", "max_pool2d:1x64x112x112:3x3:stride=2:padding=1"),
    Layer("resnet50:res2a_branch2a", "conv2d:1x64x56x56:64x1x1" + _RELU),
    Layer("resnet50:res2_branch2a*2", "conv2d:1x256x56x56:64x1x1" + _RELU),
    Layer("resnet50:res3a_branch2a", "conv2d:1x256x56x56:128x1x1" + _RELU),
    Layer("resnet50:res3a_branch2b", "conv2d:1x128x56x56:128x3x3:stride=2:padding=1" + _RELU),
    Layer("resnet50:res3_branch2c*4", "conv2d:1x128x28x28:512x1x1" + _RELU),
    Layer("resnet50:res3a_branch1", "conv2d:1x256x56x56:512x1x1:stride=2" + _RELU),
    Layer("resnet50:res3_branch2a*3", "conv2d:1x512x28x28:128x1x1" + _RELU),
    Layer("resnet50:res4a_branch2a", "conv2d:1x512x28x28:256x1x1" + _RELU),
    Layer("resnet50:res4a_branch2b", "conv2d:1x256x28x28:256x3x3:stride=2:padding=1" + _RELU),
    Layer("resnet50:res4_branch2c*6", "conv2d:1x256x14x14:1024x1x1" + _RELU),
    Layer("resnet50:res4a_branch1", "conv2d:1x512x28x28:1024x1x1:stride=2" + _RELU),
    Layer("resnet50:res5a_branch2a", "conv2d:1x1024x14x14:512x1x1" + _RELU),
    Layer("resnet50:res5a_branch2b", "conv2d:1x512x14x14:512x3x3:stride=2:padding=1" + _RELU),
    Layer("resnet50:res5_branch2c*3", "conv2d:1x512x7x7:2048x1x1" + _RELU),
    Layer("resnet50:res5a_branch1", "conv2d:1x1024x14x14:2048x1x1:stride=2" + _RELU),
    Layer("resnet50:res5_branch2a*2", "conv2d:1x2048x7x7:512x1x1" + _RELU),
    Layer("resnet50:fc1000", "dense:1x2048:1000:bias=true"),
    Layer("resnet50@8:conv1", "conv2d:8x3x224x224:64x7x7:stride=2:padding=3" + _RELU),
    Layer("resnet50@8:res4_branch2b*5", "conv2d:8x256x14x14:256x3x3:padding=1" + _RELU),
    Layer(
        "resnext50_32x4d:layer1/conv2*3", "conv2d:1x128x56x56:128x3x3:padding=1:groups=32" + _RELU
    ),
    Layer(
        "resnext50_32x4d:layer3/conv2*5", "conv2d:1x512x14x14:512x3x3:padding=1:groups=32" + _RELU
    ),
)

#: VGG-19, AlexNet, ZFNet, SqueezeNet 1.1, DenseNet-121 (its 3×3 have neither bias nor activation).
_PLAIN = (
    Layer("vgg19:conv1_1", "conv2d:1x3x224x224:64x3x3:padding=1" + _RELU),
    Layer("vgg19:conv1_2", "conv2d:1x64x224x224:64x3x3:padding=1" + _RELU),
    Layer("vgg19:conv3*3", "conv2d:1x256x56x56:256x3x3:padding=1" + _RELU),
    Layer("vgg19:conv4*3", "conv2d:1x512x28x28:512x3x3:padding=1" + _RELU),
    Layer("vgg19:conv5*4", "conv2d:1x512x14x14:512x3x3:padding=1" + _RELU),
    Layer("vgg19:fc6", "dense:1x25088:4096" + _RELU),
    Layer("bvlc_alexnet:conv1", "conv2d:1x3x224x224:96x11x11:stride=4" + _RELU),
    Layer("bvlc_alexnet:conv2", "conv2d:1x96x26x26:256x5x5:padding=2:groups=2" + _RELU),
    Layer("bvlc_alexnet:pool5", "max_pool2d:1x256x12x12:3x3:stride=2:padding=0,0,1,1"),
    Layer("zfnet512:conv2", "conv2d:1x96x54x54:256x5x5:stride=2" + _RELU),
    Layer("squeezenet:conv1", "conv2d:1x3x224x224:64x3x3:stride=2" + _RELU),
    Layer("squeezenet:fire2/expand3x3*2", "conv2d:1x16x55x55:64x3x3:padding=1" + _RELU),
    Layer("squeezenet:fire6/squeeze1x1", "conv2d:1x256x13x13:48x1x1" + _RELU),
    Layer("squeezenet:pool10", "global_avg_pool2d:1x1000x13x13"),
    Layer("densenet121:conv2/x2*6", "conv2d:1x128x56x56:32x3x3:padding=1"),
    Layer("densenet121:conv4/x2*24", "conv2d:1x128x14x14:32x3x3:padding=1"),
    Layer("densenet121:pool2", "avg_pool2d:1x128x56x56:2x2:stride=2"),
)

#: GoogLeNet, Inception with batch normalisation, Inception v3 (299×299).
_INCEPTION = (
    Layer("inception_v1:inception_4b/5x5*2", "conv2d:1x24x13x13:64x5x5:padding=2" + _RELU),
    Layer("inception_v1:pool5/7x7_s1", "avg_pool2d:1x1024x6x6:7x7:padding=0,0,1,1"),
    Layer("inception_v2:inception_3c/3x3", "conv2d:1x128x28x28:160x3x3:stride=2:padding=1" + _RELU),
    Layer("inception_v3:Conv2d_1a_3x3", "conv2d:1x3x299x299:32x3x3:stride=2" + _RELU),
    Layer("inception_v3:Conv2d_4a_3x3", "conv2d:1x80x73x73:192x3x3" + _RELU),
    Layer("inception_v3:Mixed_6/1x7*4", "conv2d:1x192x17x17:192x1x7:padding=0,3" + _RELU),
    Layer("inception_v3:Mixed_6/7x1*4", "conv2d:1x192x17x17:192x7x1:padding=3,0" + _RELU),
    Layer("inception_v3:Mixed_7/1x3*4", "conv2d:1x384x8x8:384x1x3:padding=0,1" + _RELU),
    Layer(
        "inception_v3:Mixed_6/pool*4",
        "avg_pool2d:1x768x17x17:3x3:padding=1:count_include_pad=true",
    ),
)

#: Networks for small machines: ShuffleNet, MobileNet v1, v2 and v3 large, EfficientNet-B0. The
#: last, and MobileNet v1, pad as TensorFlow does.
_MOBILE = (
    Layer("shufflenet:stage2/gconv*7", "conv2d:1x136x28x28:136x1x1:groups=4" + _RELU),
    Layer(
        "shufflenet:stage3/depthwise*7", "depthwise_conv2d:1x272x14x14:272x3x3:padding=1" + _BIAS
    ),
    Layer("shufflenet_v2:stage3/1x1*16", "conv2d:1x116x14x14:116x1x1" + _RELU),
    Layer("mobilenet_v1:conv_dw_1", "depthwise_conv2d:1x32x112x112:32x3x3:padding=1" + _RELU6),
    Layer("mobilenet_v1:conv_pw*5", "conv2d:1x512x14x14:512x1x1" + _RELU6),
    Layer("mobilenet_v1@8:conv_dw*5", "depthwise_conv2d:8x512x14x14:512x3x3:padding=1" + _RELU6),
    Layer("mobilenet_v2:conv_stem", "conv2d:1x3x224x224:32x3x3:stride=2:padding=1" + _RELU6),
    Layer(
        "mobilenet_v2:block_3_depthwise",
        "depthwise_conv2d:1x144x56x56:144x3x3:stride=2:padding=1" + _RELU6,
    ),
    Layer("mobilenet_v2:block_7_project*3", "conv2d:1x384x14x14:64x1x1" + _BIAS),
    Layer(
        "mobilenet_v2:block_14_depthwise*3", "depthwise_conv2d:1x960x7x7:960x3x3:padding=1" + _RELU6
    ),
    Layer(
        "mobilenet_v3_large:block_4_depthwise",
        "depthwise_conv2d:1x72x56x56:72x5x5:stride=2:padding=2" + _RELU,
    ),
    Layer("mobilenet_v3_large:block_11_expand", "conv2d:1x80x14x14:480x1x1" + _HARDSWISH),
    Layer(
        "mobilenet_v3_large:block_14_depthwise*2",
        "depthwise_conv2d:1x960x7x7:960x5x5:padding=2" + _HARDSWISH,
    ),
    Layer("efficientnet_b0:block2b_expand_conv*2", "conv2d:1x24x56x56:144x1x1" + _SILU),
    Layer(
        "efficientnet_b0:block3a_dwconv",
        "depthwise_conv2d:1x144x56x56:144x5x5:stride=2:padding=1,1,2,2" + _SILU,
    ),
    Layer(
        "efficientnet_b0:block4a_dwconv",
        "depthwise_conv2d:1x240x28x28:240x3x3:stride=2:padding=0,0,1,1" + _SILU,
    ),
    Layer(
        "efficientnet_b0:block5b_dwconv*2", "depthwise_conv2d:1x672x14x14:672x5x5:padding=2" + _SILU
    ),
    Layer("efficientnet_b0:block6b_expand_conv*4", "conv2d:1x192x7x7:1152x1x1" + _SILU),
)

#: Detection and segmentation: DeepLab v3 on ResNet-50 with output stride 8 at 224×224, YOLO v3 and
#: v3-tiny at 416×416, v5s and v8n at 640×640, U-Net (valid at 572×572, padded at 256×256).
_DENSE = (
    Layer(
        "deeplabv3_resnet50:layer3/conv2*5",
        "conv2d:1x256x28x28:256x3x3:padding=2:dilation=2" + _RELU,
    ),
    Layer(
        "deeplabv3_resnet50:aspp12", "conv2d:1x2048x28x28:256x3x3:padding=12:dilation=12" + _RELU
    ),
    Layer("yolov3:conv1", "conv2d:1x32x416x416:64x3x3:stride=2:padding=1" + _LEAKY),
    Layer("yolov3:3x3_52*11", "conv2d:1x128x52x52:256x3x3:padding=1" + _LEAKY),
    Layer("yolov3:3x3_13*7", "conv2d:1x512x13x13:1024x3x3:padding=1" + _LEAKY),
    Layer("yolov3_tiny:conv0", "conv2d:1x3x416x416:16x3x3:padding=1" + _LEAKY),
    Layer("yolov3_tiny:pool5", "max_pool2d:1x512x13x13:2x2:padding=0,0,1,1"),
    Layer("yolov5s:model.0", "conv2d:1x3x640x640:32x6x6:stride=2:padding=2" + _SILU),
    Layer("yolov8n:3x3_160*2", "conv2d:1x16x160x160:16x3x3:padding=1" + _SILU),
    Layer("yolov8n:3x3_40*9", "conv2d:1x64x40x40:64x3x3:padding=1" + _SILU),
    Layer("yolov8n:sppf_pool*3", "max_pool2d:1x128x20x20:5x5:padding=2"),
    Layer("unet_572:conv1_1", "conv2d:1x1x572x572:64x3x3" + _RELU),
    Layer("unet_256:conv1_2*2", "conv2d:1x64x256x256:64x3x3:padding=1" + _RELU),
)

#: One axis and three: HiFi-GAN V1 on 32 frames, R3D-18 on 16 frames of 112×112.
_OTHER_RANKS = (
    Layer(
        "hifigan_v1:resblocks.2/convs1.2",
        "conv1d:1x256x256:256x11:padding=25:dilation=5" + _BIAS,
    ),
    Layer("r3d_18:layer3*3", "conv3d:1x256x4x14x14:256x3x3x3:padding=1" + _RELU),
)

#: First layers, strides, large maps, narrow and odd channels, groups, depthwise, dilation, pools,
#: dense layers; each kind of loop nest that a network needs is here once or more often.
LAYERS = (*SIX, *_RESNET, *_PLAIN, *_INCEPTION, *_MOBILE, *_DENSE, *_OTHER_RANKS)

_TANH = _BIAS + ":activation=tanh"
_UP = ":stride=2:padding=1"

#: Transposed: the generator of DCGAN (Radford et al., 2015), U-Net (Ronneberger et al., 2015; with
#: padding), FCN-8s' fixed bilinear filters (Long et al., 2014), SegNet's decoder (Badrinarayanan et
#: al., 2015), V-Net (Milletari et al., 2016), WaveGAN (Donahue et al., 2018).
_TRANSPOSED = (
    Layer("dcgan:project", "conv2d_transpose:1x100x1x1:1024x4x4" + _RELU),
    Layer("dcgan:conv1", "conv2d_transpose:1x1024x4x4:512x4x4" + _UP + _RELU),
    Layer("dcgan:conv2", "conv2d_transpose:1x512x8x8:256x4x4" + _UP + _RELU),
    Layer("dcgan:conv3", "conv2d_transpose:1x256x16x16:128x4x4" + _UP + _RELU),
    Layer("dcgan:conv4", "conv2d_transpose:1x128x32x32:3x4x4" + _UP + _TANH),
    Layer("unet:up1", "conv2d_transpose:1x1024x32x32:512x2x2:stride=2" + _BIAS),
    Layer("unet:up2", "conv2d_transpose:1x512x64x64:256x2x2:stride=2" + _BIAS),
    Layer("unet:up3", "conv2d_transpose:1x256x128x128:128x2x2:stride=2" + _BIAS),
    Layer("unet:up4", "conv2d_transpose:1x128x256x256:64x2x2:stride=2" + _BIAS),
    Layer("fcn8s:upscore2", "conv2d_transpose:1x21x16x16:21x4x4:stride=2"),
    Layer("fcn8s:upscore8", "conv2d_transpose:1x21x64x64:21x16x16:stride=8"),
    Layer("vnet:up_tr128", "conv3d_transpose:1x256x8x8x8:64x2x2x2:stride=2" + _RELU),
    Layer("wavegan:upconv_1", "conv1d_transpose:1x512x64:256x25:stride=4:padding=11"
          ":output_padding=1" + _RELU),
)  # fmt: skip

#: Dilated, grouped, shuffled, in one and three dimensions: DeepLabv3 (Chen et al., 2017), ResNeXt
#: (Xie et al., 2016), ShuffleNet (Zhang et al., 2017), a temporal convolutional network (Bai et
#: al., 2018), WaveNet (van den Oord et al., 2016), C3D (Tran et al., 2014), R(2+1)D (Tran et al.,
#: 2017).
_OTHERS = (
    Layer("segnet:conv5_1_D", "conv2d:1x512x14x14:512x3x3:padding=1" + _RELU),
    Layer("segnet:conv1_1_D", "conv2d:1x64x224x224:12x3x3:padding=1" + _BIAS),
    Layer("deeplabv3:aspp6", "conv2d:1x2048x28x28:256x3x3:padding=6:dilation=6" + _RELU),
    Layer("deeplabv3:aspp18", "conv2d:1x2048x28x28:256x3x3:padding=18:dilation=18" + _RELU),
    Layer("deeplabv3:block4", "conv2d:1x512x28x28:512x3x3:padding=2:dilation=2" + _RELU),
    Layer("resnext50_32x4d:conv2", "conv2d:1x128x56x56:128x3x3:padding=1:groups=32" + _RELU),
    Layer("resnext50_32x4d:conv4", "conv2d:1x512x14x14:512x3x3:padding=1:groups=32" + _RELU),
    Layer("shufflenet:stage2_gconv", "conv2d:1x136x28x28:136x1x1:groups=4" + _BIAS),
    Layer("shufflenet:stage3_gconv", "conv2d:1x272x14x14:272x1x1:groups=4" + _BIAS),
    Layer("mobilenet_v1:conv_dw_2", "depthwise_conv2d:1x64x112x112:64x3x3:stride=2:padding=1"
          + _RELU),
    Layer("mobilenet_v1:conv_dw_7", "depthwise_conv2d:1x512x14x14:512x3x3:padding=1" + _RELU),
    Layer("tcn:level3", "conv1d:1x25x784:25x7:padding=48,0:dilation=8" + _RELU),
    Layer("tcn:char_ptb", "conv1d:1x450x400:450x3:padding=8,0:dilation=4" + _RELU),
    Layer("wavenet:layer9", "conv1d:1x32x16000:64x2:padding=512,0:dilation=512" + _BIAS),
    Layer("wavenet:skip", "conv1d:1x32x16000:256x1" + _BIAS),
    Layer("c3d:conv1a", "conv3d:1x3x16x112x112:64x3x3x3:padding=1" + _RELU),
    Layer("c3d:conv5a", "conv3d:1x512x2x7x7:512x3x3x3:padding=1" + _RELU),
    Layer("r2plus1d_18:spatial", "conv3d:1x128x8x28x28:288x1x3x3:padding=0,1,1" + _RELU),
    Layer("r2plus1d_18:temporal", "conv3d:1x288x8x28x28:128x3x1x1:padding=1,0,0" + _RELU),
)  # fmt: skip

_PAIR = ":inner_bias=true:inner_activation=relu" + _RELU
#: A scale that brings sums of products of bytes to bytes.
_BYTES = ":bias=true:scale=0.0004"

#: Of several parts, or of bytes: MobileNet's depthwise and pointwise layers (Howard et al., 2017),
#: layers of WaveNet and of a gated convolutional network (Dauphin et al., 2016), the locally
#: connected L4 of DeepFace (Taigman et al., 2014), and the 3x3 layers of ResNet-50 in int8.
_COMPOSITE = (
    Layer("mobilenet_v1:pair2", "separable_conv2d:1x64x112x112:128x3x3:stride=2:padding=1" + _PAIR),
    Layer("mobilenet_v1:pair3", "separable_conv2d:1x128x56x56:128x3x3:padding=1" + _PAIR),
    Layer("mobilenet_v1:pair7*5", "separable_conv2d:1x512x14x14:512x3x3:padding=1" + _PAIR),
    Layer("wavenet:gated", "gated_conv1d:1x32x16000:32x2:padding=8,0:dilation=8:bias=true"
          ":activation=tanh"),
    Layer("gcnn:glu", "gated_conv1d:1x512x128:512x4:padding=3,0:bias=true"),
    Layer("deepface:l4", "locally_connected2d:1x16x63x63:16x9x9:bias=true:activation=relu"),
    Layer("resnet50_int8:res2_branch2b*3", "qconv2d:1x64x56x56:64x3x3:padding=1" + _BYTES),
    Layer("resnet50_int8:res3_branch2b*3", "qconv2d:1x128x28x28:128x3x3:padding=1" + _BYTES),
    Layer("resnet50_int8:res4_branch2b*5", "qconv2d:1x256x14x14:256x3x3:padding=1" + _BYTES),
    Layer("resnet50_int8:res5_branch2b*2", "qconv2d:1x512x7x7:512x3x3:padding=1" + _BYTES),
)  # fmt: skip

#: Of the whole family of convolutions: what classification networks do not have.
FAMILY = (*_TRANSPOSED, *_OTHERS, *_COMPOSITE)

#: What a command's ``--suite`` can name.
SUITES = {"layers": LAYERS, "family": FAMILY, "six": SIX}


def suite(name: str, filter: str = "") -> tuple[Layer, ...]:
    """Give the layers of a suite.

    Parameters
    ----------
    name : str
        One of `SUITES`.
    filter : str
        Only the rows whose origin or problem contains this text.

    Returns
    -------
    tuple of Layer
        At least one.

    Raises
    ------
    InputError
        If there is no such suite, or no row contains `filter`.
    """
    if name not in SUITES:
        raise InputError(f"unknown suite {name!r}, known: {', '.join(SUITES)}")
    found = tuple(row for row in SUITES[name] if filter in row.origin or filter in row.problem)
    if not found:
        raise InputError(f"suite {name}: no layer contains {filter!r}")
    return found
