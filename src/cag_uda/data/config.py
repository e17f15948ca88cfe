"""The `[loading]` table of a recipe: how images become training crops."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class LoadingConfig(BaseModel):
    """Sizes, augmentation and worker processes of the loader."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(default=4, ge=1)
    """Images of each domain in the global batch, over all processes."""
    width_px: int | None = Field(default=None, ge=16)
    """Width to which every image is resized, aspect ratio kept, before `scale`; None keeps the
    image's own."""
    crop_px: tuple[int, int] = (512, 896)
    """Height and width of a training crop, after resizing."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Range of the random rescaling; raised for an image that would not fill the crop."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    photometric: float = Field(default=0.0, ge=0, le=2)
    """Strength of the photometric augmentation of both domains: 0 none, 1 strong."""
    workers: int = Field(default=1, ge=0)
    """Loader processes of each training process; 0 loads in the training process."""

    @model_validator(mode="after")
    def _ranges(self) -> "LoadingConfig":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must rise from above 0, got {list(self.scale)}")
        if min(self.crop_px) < 32:
            raise ValueError(f"crop_px must be at least 32 by 32, got {list(self.crop_px)}")
        return self
