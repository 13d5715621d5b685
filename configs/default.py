"""Every key that a config has, with its unit. Experiments change some of them."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """DDPM's CIFAR-10 recipe (Ho et al. 2020, section 4 and appendix B)."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.name = "digits"  # digits | toy | images
    config.data.path = ""  # of images: a folder (Parquet or image files) or a Hub name
    config.data.test_fraction = 0.2  # held out where the data come in one pool
    config.data.split_seed = 0  # of that split; not the run's seed, so that runs compare

    config.sde = ConfigDict()
    config.sde.name = "vp"  # vp | subvp | ve
    config.sde.num_steps = 1000  # N
    config.sde.schedule = "linear"  # vp, subvp: linear | cosine | log_linear
    config.sde.beta_min = 0.1  # linear: N times the first and the last beta
    config.sde.beta_max = 20.0
    config.sde.sigma_min = 1e-3  # log_linear, ve: noise scale at t = 1 (subvp: its square)
    config.sde.sigma_max = 50.0  # ve: noise scale at t = N
    config.sde.alpha_min = 5e-3  # log_linear: signal scale at t = N

    config.model = ConfigDict()
    config.model.name = "unet"  # unet | mlp
    config.model.prediction = "eps"  # the network's output: eps | x_0 | v | score | mean
    config.model.learned_variance = False  # unet: and the variance of a reverse step
    config.model.channels = 128  # unet: of the finest level
    config.model.multipliers = (1, 2, 2, 2)  # unet: channels of the levels, fine to coarse
    config.model.blocks = 2  # unet: residual blocks a level
    config.model.attention_sizes = (16,)  # unet: pixels a side
    config.model.num_groups = 32  # unet: of GroupNorm
    config.model.dropout = 0.1  # unet
    config.model.conditional = False  # unet: and the class of the datum
    config.model.width = 128  # mlp
    config.model.depth = 3  # mlp
    config.model.embedding = 64  # mlp

    config.training = ConfigDict()
    config.training.num_steps = 800_000
    config.training.batch_size = 128
    config.training.learning_rate = 2e-4
    config.training.warmup_steps = 5000
    config.training.decay = "constant"  # constant | cosine
    config.training.clip_norm = 1.0
    config.training.ema_decay = 0.9999
    # simple | score_matching | mean | variational | hybrid | likelihood | min_snr | p2
    config.training.objective = "simple"
    config.training.times = "integer"  # integer | real | importance
    config.training.t_min = 1.0  # real, importance: least time, in steps
    config.training.flip = False  # mirror each image left to right with probability 1/2
    config.training.low_discrepancy = False  # times of a batch evenly spread
    config.training.variance = "beta"  # variational, if not learned: beta | posterior
    config.training.hybrid_weight = 1e-3  # hybrid: of the bound beside the simple loss
    config.training.min_snr_gamma = 5.0  # min_snr
    config.training.p2_gamma = 1.0  # p2
    config.training.p2_k = 1.0  # p2
    config.training.dequantization = "uniform"  # x_0 of a level: uniform on its bin | its centre
    config.training.label_dropout = 0.1  # conditional: share of the data shown without class
    config.training.micro_batches = 1  # parts of a batch, one after another, to spare memory
    config.training.recompute = False  # unet: activations of its blocks, instead of keeping them
    config.training.precision = "float32"  # float32 | tf32 (on a GPU) | bfloat16
    config.training.compile = False
    config.training.compile_mode = "default"  # default | reduce-overhead | max-autotune
    config.training.channels_last = True  # unet: memory format; see docs/scaling.md
    config.training.log_every = 100  # steps
    config.training.checkpoint_every = 5000  # steps

    config.sampling = ConfigDict()
    # ancestral | pc | ode | ddim | reverse_diffusion | euler_maruyama
    # | heun | dpm | dpm_sde | deis | unipc
    config.sampling.sampler = "ancestral"
    config.sampling.seed = 0
    config.sampling.num_images = 64
    config.sampling.batch_size = 64
    config.sampling.steps = 0  # of all but ode; 0 for all N, and for heun to unipc 20
    # auto | uniform | trailing | quadratic | leading | log_snr | karras | angle | least_cost
    config.sampling.grid = "auto"
    config.sampling.final = "mean"  # mean | x_0 | none: what the step to t = 0 does
    config.sampling.order = 2  # dpm 1..3, deis 1..4, unipc 1..3
    config.sampling.churn = 0.0  # heun: noise raised before a step, relative
    config.sampling.variance = "beta"  # ancestral, pc: beta | posterior | optimal | learned
    config.sampling.eta = 0.0  # ddim: share of the posterior's noise
    config.sampling.clip = True  # x_0 to [-1, 1], in all but ode
    config.sampling.dynamic_threshold = 0.0  # instead: to this quantile of |x_0|; 0 for none
    config.sampling.label = -1  # class of the images; -1 for none
    config.sampling.guidance = 1.0  # weight of the class: 0 ignores it, 1 is the model's own
    config.sampling.guide = "auto"  # whence the class: network | classifier
    config.sampling.predictor = "ancestral"  # pc: any of the others but ode
    config.sampling.corrector = "langevin"  # langevin | annealed
    config.sampling.snr = 0.1  # of the corrector
    config.sampling.corrections = 1  # a time
    config.sampling.tolerance = 1e-4  # ode: local error, unit scale
    config.sampling.method = "dopri5"  # ode: dopri5 | torchdiffeq:NAME | scipy:NAME
    config.sampling.max_evaluations = 10_000  # ode: a sample
    config.sampling.progressive = False  # and a picture and a GIF of x_0 along the way
    # none | inpaint | colorize | superresolve | reconstruct | interpolate | vary
    config.sampling.task = "none"

    config.control = ConfigDict()  # of sampling.task
    config.control.image = "test:0"  # a file, or the k-th test image
    config.control.other = "test:1"  # interpolate: the image at the other end
    config.control.mask = ""  # inpaint: a file, white where to make up; "" the middle square
    config.control.factor = 2  # superresolve: pixels of a block, a side
    config.control.method = "mmps"  # inpaint, colorize, superresolve: replace | dps | mmps
    config.control.noise = 0.0  # mmps: of what is given, of [-1, 1]; 0 for that of the levels
    config.control.iterations = 3  # mmps: of conjugate gradients
    config.control.weight = 1.0  # dps: of a step along the gradient of the misfit
    config.control.strength = 0.5  # vary: time to which the image is noised, as a share of N
    config.control.count = 8  # images to make; reconstruct: test images from the given one on

    config.classifier = ConfigDict()  # of x_t at any t; --mode classifier
    config.classifier.num_steps = 2000
    config.classifier.batch_size = 64
    config.classifier.learning_rate = 1e-3
    config.classifier.width = 32  # channels of its first level

    config.likelihood = ConfigDict()
    config.likelihood.seed = 0
    config.likelihood.num_images = 0  # first so many of the test set; 0 for all
    config.likelihood.batch_size = 128  # points in flight at a time
    config.likelihood.dequantization = "uniform"  # uniform | truncated_normal | last_step
    config.likelihood.samples = 1  # K points of each image, under one logarithm
    config.likelihood.t_start = 0.0  # where the flow starts, in steps; 0 for the least possible
    config.likelihood.probes = 2  # of the divergence, random signs; 0 for the exact one
    config.likelihood.tolerance = 1e-4  # local error of x, unit scale
    config.likelihood.tolerance_bits = 1e-4  # local error of the log-density, bits/dim
    config.likelihood.method = "dopri5"
    config.likelihood.max_evaluations = 10_000  # a point
    config.likelihood.checked = 16  # images solved again, at a tenth of the tolerances
    config.likelihood.ledger = False  # and every bound and estimate beside the exact flow
    config.likelihood.terms = 64  # ledger: of the bounds, at random times in as many strata
    config.likelihood.against = ""  # compare in pairs with: the raw weights, "raw", or DIR
    config.likelihood.data = ""  # score these instead: "train", a folder or a Hub name

    config.compare = ConfigDict()
    # any of sampling.sampler's; also as --samplers ancestral,pc,ode
    config.compare.samplers = ("ancestral", "ddim", "dpm", "unipc", "ode")
    config.compare.nfe = (5, 10, 20, 50, 100)  # evaluations an image
    config.compare.num_images = 256
    config.compare.guidance = (0.0, 1.0, 2.0, 4.0)  # with classes: weights swept
    config.compare.inception = ""  # FID, KID, IS: a file of Inception weights, or "download"
    config.compare.seed = 0  # of the noise that every case starts from

    config.profile = ConfigDict()
    config.profile.num_steps = 10  # of training, under the profiler
    config.profile.warmup = 3  # steps before them

    config.equivalence = ConfigDict()
    config.equivalence.precision = ""  # float32 | tf32 | bfloat16; "" for training's
    config.equivalence.num_images = 256  # of each sampler, from a trained network
    config.equivalence.steps = 64  # of ancestral and pc, and half as many, on a trained network
    config.equivalence.batch_size = 4  # of the gradients and trainings compared
    config.equivalence.train_steps = 100
    return config
