"""Every mistake of the command line that `test_user_mistakes` makes, and what is told of it."""

from typing import NamedTuple

ADAPT = "adapt tiny.toml --out new --set "
CHECK = "check bad.toml"


class Mistake(NamedTuple):
    """One thing a user gets wrong."""

    command: str
    says: tuple[str, ...]
    """What its message holds, in this order."""
    change: tuple[str, str, str] | None = None
    """A sound file, a text in it, and what replaces that in `bad.toml`."""

    @property
    def name(self) -> str:
        """For pytest."""
        changed = "" if self.change is None else f"{self.change[1]} -> {self.change[2]}"
        return " ".join(f"{self.command} {changed}".split())


COMMAND_LINES = [
    Mistake("adpat demo", ("no such command 'adpat'", "'adapt'")),
    Mistake("adapt demo --sead 3", ("--sead", "--seed", "cag-uda adapt --help")),
    Mistake("adapt", ("missing argument 'recipe'", "cag-uda adapt --help")),
    Mistake("pseudo-label model --domain day", ("missing option '--out'", "pseudo-label --help")),
    Mistake("adapt demo --seed one", ("'--seed'", "valid integer")),
    Mistake("compare tiny.toml --seeds 0", ("'--seeds'", "greater than or equal to 1")),
    Mistake("domains new", ("missing argument 'folder'", "cag-uda domains new --help")),
]

RECIPES = [
    Mistake("adapt dmo", ("no built-in recipe 'dmo'", "did you mean 'demo'", "ends in .toml")),
    Mistake("adapt nowhere.toml", ("no recipe file at nowhere.toml", "`cag-uda recipes`")),
    Mistake("plan nowhere.toml", ("no recipe file at nowhere.toml", "`cag-uda recipes`")),
    Mistake("adapt cut-off.toml", ("cut-off.toml is no TOML", "end of document")),
    Mistake("adapt latin.toml", ("latin.toml is no UTF-8 text", "save the recipe as UTF-8")),
    Mistake("adapt day.toml", ("day.toml is a domain file", "cag-uda recipes new")),
    Mistake(ADAPT + "batch_size", ("--set wants KEY=VALUE", "'batch_size'")),
    Mistake(ADAPT + "stages.warmpu.steps=3", ("nothing called 'warmpu'", "warmup")),
    Mistake(ADAPT + "name.x=3", ("'name.x' leads to no table",)),
    Mistake(ADAPT + "loading.bacth_size=4", ("loading.bacth_size", "did you mean 'batch_size'")),
    Mistake(ADAPT + "seeed=4", ("seeed: unknown key", "did you mean 'seed'")),
    Mistake(
        ADAPT + "'stages.warmup.method={name=\"advrsarial\"}'",
        ("stages.2.method.name: no 'advrsarial'", "did you mean 'adversarial'", "cag"),
    ),
    Mistake(ADAPT + "stages.stage-1.method.magrin=3", ("magrin", "did you mean 'margin'")),
    Mistake(
        ADAPT + "'stages.stage-1.method.margin={kind=\"closest\", value=1}'",
        ("method.margin.kind", "'clearest' or 'calibrated'", "got 'closest'", "'clearest'?"),
    ),
    Mistake(
        ADAPT + "'stages.stage-1.method.margin={kind=\"clearest\", value=3}'",
        ("a clearest margin lies between 0 and 1", "got 3.0"),
    ),
    Mistake(ADAPT + "segmenter.backbone=resnet-51", ("'resnet-51'", "choose from", "resnet-50")),
    Mistake(ADAPT + "segmenter.decoder=lite", ("unknown decoder 'lite'", "choose from", "light")),
    Mistake(ADAPT + "segmenter.norm=group", ("segmenter.norm", "'per-domain'", "got 'group'")),
    Mistake(ADAPT + "stages.warmup.steps=0", ("'warmup' trains", "`steps` of at least 1")),
    Mistake(ADAPT + "stages.warmup.steps=many", ("stages.2.steps", "integer", "got 'many'")),
    Mistake(ADAPT + "stages.adabn.steps=5", ("'adabn' takes no training", "leave out `steps`")),
    Mistake(ADAPT + "stages.adabn.name=warmup", ("two stages are called 'warmup'", "own name")),
    Mistake(ADAPT + "stages.adabn.name=initial", ("no stage", "'initial'", "another name")),
    Mistake(ADAPT + "stages.warmup.start=sauce-only", ("'sauce-only'", "choose from initial")),
    Mistake(ADAPT + "stages.warmup.name=Warm", ("stages.2.name", "a-z0-9", "got 'Warm'")),
    Mistake(ADAPT + "loading.crop_px=[8,8]", ("at least 32 by 32", "got [8, 8]")),
    Mistake(ADAPT + "loading.scale=[1.5,0.5]", ("scale must rise", "[1.5, 0.5]")),
    Mistake(ADAPT + "loading.batch_size=1", ("one image per device", "batch_size to 2", "frozen")),
    Mistake(ADAPT + "loading.batch_size=3 --devices 2", ("batch_size 3", "multiple of 2 devices")),
    Mistake("adapt tiny.toml --devices 0", ("compute.devices", "greater than or equal to 1")),
    Mistake(ADAPT + '\'classes=["road", "bus"]\'', ("no class 'bus'", "it has road, car")),
    Mistake(
        ADAPT + "deliver=entropie", ("deliver wants safe, last, or", "entropy", "got 'entropie'")
    ),
    Mistake(ADAPT + "seed=-1", ("seed", "greater than or equal to 0", "got -1")),
    Mistake("adapt tiny.toml --precision fp16", ("'fp16' is not one of", "'bf16', '16'")),
    Mistake("adapt tiny.toml --accelerator tpu", ("'tpu' is not", "'cuda'")),
    Mistake("adapt tiny.toml --accelerator cuda", ("no CUDA device", "--accelerator cpu")),
    Mistake("plan tiny.toml --accelerator cuda", ("no CUDA device", "--accelerator cpu")),
    Mistake("adapt tiny.toml --track tensorbord", ("'tensorbord'", "did you mean 'tensorboard'")),
    Mistake(
        CHECK, ("bad.toml: source: missing",), ("tiny.toml", '[source]\ndomain = "day.toml"', "")
    ),
    Mistake(
        CHECK,
        ("road, car, tree, heaven", "give both the same label space"),
        ("tiny.toml", 'domain = "dusk.toml"', 'domain = "heaven.toml"'),
    ),
    Mistake(ADAPT + "segmenter.weights=nowhere.pth", ("nowhere.pth", "imagenet", "leave")),
    Mistake(ADAPT + "segmenter.weights=notes.txt", ("notes.txt is damaged", "nothing in it was")),
    Mistake(ADAPT + "segmenter.weights=strange.pth", ("do not fit the network", "is missing")),
    Mistake("recipes new day.toml dusk.toml --machine big", ("small or gpu", "got 'big'")),
    Mistake("recipes new plain.toml dusk.toml", ("'plain'", "must have labels", "first")),
    Mistake("compare tiny.toml --methods cag,dax", ("no 'dax'", "there are source-only", "dacs")),
    Mistake("compare tiny.toml --settings nowhere.toml", ("nowhere.toml", "check its path")),
]

DOMAINS = [
    Mistake(ADAPT + "source.domain=gta", ("'gta'", "did you mean 'gta5'", ".toml")),
    Mistake(ADAPT + "source.domain=day", ("for the file in this folder write day.toml",)),
    Mistake(ADAPT + "source.domain=nowhere.toml", ("nowhere.toml", "No such file")),
    Mistake(ADAPT + "source.domain=gta5", ("'gta5'", "no folder data", "--data-root")),
    Mistake(
        "adapt gta5-cityscapes --data-root nowhere",
        ("'gta5'", "nowhere", "--data-root", "error: ", "'cityscapes'"),
    ),
    Mistake(ADAPT + "source.split=trian", ("no split 'trian'", "did you mean 'train'")),
    Mistake(ADAPT + "target.test=val", ("no split 'val'", "there are: train, test")),
    Mistake(ADAPT + "source.domain=plain.toml", ("no labels", "`labels` pattern")),
    Mistake(ADAPT + "source.domain=unpaired.toml", ("images/001", "want labels/001", "`list`")),
    Mistake("check camvid-dya", ("'camvid-dya'", "did you mean 'camvid-day'")),
    Mistake("check nowhere.toml", ("no recipe or domain file at nowhere.toml", "check its path")),
    Mistake("check empty", ("no built-in domain 'empty'", "by the path of its .toml file")),
    Mistake("domains cityscpaes", ("'cityscpaes'", "did you mean 'cityscapes'")),
    Mistake("domains new empty", ("empty holds no image", "give the folder", "PNG")),
    Mistake("domains new nowhere", ("no folder at nowhere", "give the folder")),
    Mistake("evaluate model --domain tiny.toml", ("tiny.toml is a recipe", "want a domain")),
    Mistake(
        CHECK, ("'ids', 'palette'", "got 'id'"), ("day.toml", 'encoding = "ids"', 'encoding = "id"')
    ),
    Mistake(CHECK, ("did you mean 'images'",), ("day.toml", "images = ", "imagse = ")),
    Mistake(CHECK, ("no folder dya", "root"), ("day.toml", 'root = "day"', 'root = "dya"')),
    Mistake(CHECK, ("finds no image",), ("day.toml", 'root = "day"', 'root = "empty"')),
    Mistake(
        CHECK,
        ("images/*.jpg", "finds no image"),
        ("day.toml", 'images = "images/*"', 'images = "images/*.jpg"'),
    ),
    Mistake(
        CHECK,
        ("leaves the root", "set `root`"),
        ("day.toml", 'images = "images/*"', 'images = "../day/images/*"'),
    ),
    Mistake(
        CHECK,
        ("7 = 'raod'", "did you mean 'road'"),
        ("day.toml", 'encoding = "ids"', 'encoding = "ids"\nmap = { 7 = "raod" }'),
    ),
    Mistake(
        CHECK,
        ("slice = '100:'", "leaves none of the 6 images", "let it leave some"),
        ("day.toml", 'labels = "labels/*"', 'labels = "labels/*"\nslice = "100:"'),
    ),
    Mistake(
        CHECK,
        ("cannot read the list", "train.txt", "give a text file"),
        ("day.toml", 'labels = "labels/*"', 'labels = "labels/*"\nlist = "train.txt"'),
    ),
    Mistake(CHECK, ("'road' is given to more",), ("day.toml", 'name = "car"', 'name = "road"')),
    Mistake(
        CHECK, ("less than or equal to 255", "got 300"), ("day.toml", "0, 0, 200", "0, 0, 300")
    ),
    Mistake(
        CHECK,
        ("'camvid11'", "did you mean 'camvid-11'", "[[classes]]"),
        ("day.toml", 'name = "day"', 'name = "day"\nlabel_space = "camvid11"'),
    ),
    # More ids in the labels than classes, as when one class was forgotten.
    Mistake(
        CHECK,
        ("neither mapped nor classes: 3", 'other = "ignore"'),
        ("day.toml", '[[classes]]\nname = "sky"\ncolor = [120, 180, 220]\n', ""),
    ),
]

DATA = [
    Mistake("check corrupt.toml", ("1 of 2 images cannot be read", "images/001", "damaged")),
    Mistake(
        "check unknown-id.toml", ("neither mapped nor classes: 34", 'map = { "34" = "ignore" }')
    ),
    Mistake("check palette.toml", ("is a palette image", "encoding = 'palette'")),
    Mistake(
        "check jpeg.toml",
        ("another format that changes the ids", "save labels as PNG"),
    ),
    Mistake("check larger.toml", ("differ in size from their labels", "want the same size")),
    Mistake("check unpaired.toml", ("images/001", "want labels/001")),
    Mistake("check colours.toml", ("has 3 channels", "encoding = 'rgb'")),
    Mistake(
        CHECK,
        ("label colours that are neither mapped", "#402040"),
        ("colours.toml", 'encoding = "ids"', 'encoding = "rgb"'),
    ),
    Mistake(
        CHECK,
        ("is no palette image", "'rgb' or 'channel'"),
        ("colours.toml", 'encoding = "ids"', 'encoding = "palette"'),
    ),
    Mistake(
        "adapt tiny.toml --set source.domain=corrupt.toml --out begun-1",
        ("images/001.png is damaged", "copy or download it again"),
    ),
    Mistake(
        "adapt tiny.toml --set source.domain=unknown-id.toml --out begun-2",
        ("34 (3,072 px)", 'other = "ignore"'),
    ),
    Mistake("check cityscapes --submission nowhere", ("no folder nowhere", "--as label-ids")),
    Mistake("check day.toml --submission empty", ("no label ids", "no test server")),
]

MODELS = [
    Mistake("evaluate nowhere --domain day.toml", ("no model at nowhere", "RUN/model", "owner/")),
    Mistake(
        "evaluate nobody/nothing --domain day.toml",
        ("no folder nobody/nothing", "hub", "mend the hub id or the connection"),
    ),
    Mistake("evaluate empty --domain day.toml", ("no config.json", "give RUN/model")),
    Mistake("evaluate without-config --domain day.toml", ("no config.json", "give RUN/model")),
    Mistake("evaluate without-weights --domain day.toml", ("no model.safetensors", "RUN/model")),
    Mistake("evaluate cut-off-config --domain day.toml", ("damaged or foreign", "copy or")),
    Mistake("evaluate cut-off-weights --domain day.toml", ("damaged or foreign", "copy or")),
    Mistake("evaluate of-the-future --domain day.toml", ("format 9", "reads 1", "the version of")),
    Mistake("evaluate unfitting --domain day.toml", ("do not fit", "one model")),
    Mistake(
        "evaluate other-model --domain day.toml",
        ("tells wall, door, roof, lawn apart", "has road, car, tree, sky", "same classes"),
    ),
    Mistake("evaluate model --domain plain.toml", ("'test' has no labels", "cag-uda select")),
    Mistake("evaluate model --domain day.toml --split val", ("no split 'val'", "train, test")),
    Mistake(
        "evaluate model --domain day.toml --protocol cityscapes19",
        ("no protocol 'cityscapes19'", "choose from cityscapes-19"),
    ),
    Mistake(
        "evaluate model --domain day.toml --protocol cityscapes-19",
        ("the label space has not: sidewalk", "leave the protocol out"),
    ),
    Mistake("evaluate model --domain day.toml --window 12", ("HEIGHTxWIDTH", "got '12'")),
    Mistake("evaluate model --domain day.toml --scale 0", ("from 0.1 to 8", "(0.0,)")),
    Mistake("evaluate model --domain day.toml --precision 16", ("'16' is not", "'bf16'")),
    Mistake(
        "evaluate model --domain day.toml --accelerator gpu",
        ("'gpu' is not", "'cuda'"),
    ),
    Mistake("evaluate model --domain day.toml --accelerator cuda", ("no CUDA device", "cpu")),
    Mistake("evaluate model --domain day.toml --against nowhere", ("no model at nowhere",)),
    Mistake("predict model nowhere --out new", ("no image at nowhere", "give files, folders")),
    Mistake("predict model empty --out new", ("no image at empty", ".png")),
    Mistake("predict model 'day/images/*.jpg' --out new", ("no image at day/images/*.jpg",)),
    Mistake("predict model day/images --out new --as gif", ("overlay, overlay-legend", "got gif")),
    Mistake("predict model day/images --out new --as label-ids", ("no label ids", "train-ids")),
    Mistake("predict model day/images --out day/images", ("is an input folder", "choose another")),
    Mistake("predict model photo.jpg --out begun-3", ("photo.jpg is damaged", "same command")),
    Mistake("pseudo-label model --domain dusk.toml --out new", ("no anchors", "--source DOMAIN")),
    Mistake(
        "pseudo-label model --domain dusk.toml --out new --source day.toml --margin closest:2",
        ("got 'closest'", "did you mean 'clearest'", "KIND:VALUE"),
    ),
    Mistake(
        "pseudo-label model --domain plain.toml --out new --source day.toml --score",
        ("--score wants labels", "'plain' has none"),
    ),
    Mistake("export model net.tflite", ("net.tflite", ".onnx or .pt2")),
    Mistake("export model net.onnx --size 512", ("--size is HEIGHTxWIDTH", "got '512'")),
    Mistake("export model net.onnx --size 16x16", ("16x16 is too small", "give the size")),
    Mistake("import nowhere.pth --out new", ("cannot read nowhere.pth", "No such file")),
    Mistake("import notes.txt --out new", ("notes.txt is damaged, or holds other", "safetensors")),
    Mistake("import hostile.pth --out new", ("posix.mkdir", "it was not run", "state_dict alone")),
    Mistake("import hostile.pkl --out new", ("hostile.pkl", "nothing in it was run")),
    Mistake("import strange.pth --out new", ("some.layer.weight", "give a file that")),
    Mistake("import strange.pth --out model", ("model exists already", "another --out")),
    Mistake("import strange.pth --out new --family cagg", ("'cagg' is not", "'adaptsegnet'")),
]

RUNS = [
    Mistake("adapt tiny.toml --resume", ("nothing to resume", "leave out --resume")),
    Mistake("adapt tiny.toml --out run", ("run exists already", "--resume", "another --out")),
    Mistake("adapt tiny.toml --out notes.txt", ("notes.txt is a file", "new folder by --out")),
    Mistake(
        "adapt tiny.toml --out run --resume --seed 3",
        ("begun with another recipe", "seed", "run/recipe.toml"),
    ),
    Mistake("report run-scores", ("scores.json is damaged", "delete it")),
    Mistake(
        "adapt tiny.toml --out run-cut-off --resume",
        ("no sound checkpoint", "state.pt", "take its stage anew"),
    ),
    Mistake(
        "adapt tiny.toml --out run-of-old --resume",
        ("does not fit its stage", "another recipe or version", "take the stage anew"),
    ),
    Mistake("select nowhere", ("nowhere is no run folder", "give what `adapt` wrote")),
    Mistake("select run --by entropie", ("no criterion 'entropie'", "entropy", "infomax+")),
    Mistake("report nowhere", ("nowhere does not exist", "give the one")),
    Mistake("report empty", ("neither scores.json nor recipe.toml", "`cag-uda adapt` wrote")),
]

TABLE = [*COMMAND_LINES, *RECIPES, *DOMAINS, *DATA, *MODELS, *RUNS]
