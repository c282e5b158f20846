//! preprocessor_config.json and what it does to a picture (docs/spec.md, sections 3.1 to 3.8).

use serde_json::{Map, Value};

use super::resize_pillow::{self, PassOrder};
use super::{
    Filter, Frames, Limits, MediaError, Normalization, PixelBudget, Rgb8, Size, patch_rows, resize,
    smart_resize,
};
use crate::units::GridThw;

/// The arithmetic of one of the reference's two processor classes (section 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// Rescaling folded into mean and deviation, in f32.
    Fast,
    /// Rescaled in f64, then f32.
    Slow,
}

/// Whose resize, and whose arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resizer {
    /// torchvision's, of the fast processor class: what the reference uses by default.
    #[default]
    Torchvision,
    /// Pillow's up to release 12, of the slow class.
    Pillow,
    /// Pillow's from release 13 on, which chooses the order of the passes.
    Pillow13,
}

impl Resizer {
    pub(super) fn arithmetic(self) -> Arithmetic {
        match self {
            Self::Torchvision => Arithmetic::Fast,
            Self::Pillow | Self::Pillow13 => Arithmetic::Slow,
        }
    }
}

/// What decides the size of a resized picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resizing {
    /// Its own size and the budget.
    #[default]
    Budget,
    /// Another size and the budget: resized_height and resized_width.
    To(Size),
    /// Nothing: it is left as it is, and must be whole merged patches.
    Off,
}

/// The picture side of the reference's processor: every setting that changes its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessor {
    budget: PixelBudget,
    resize: bool,
    filter: Filter,
    pub(super) resizer: Resizer,
    /// The factor, none where do_rescale is false.
    pub(super) rescale: Option<f64>,
    pub(super) normalize: bool,
    pub(super) mean: [f64; 3],
    pub(super) std: [f64; 3],
    patch: usize,
    temporal_patch: usize,
    merge: usize,
    /// Stands for the size of any picture.
    target: Option<Size>,
}

/// A picture or clip ready for the vision tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Resized frames, planar bytes.
    pub frames: Frames,
    /// In patches.
    pub grid: GridThw,
    /// Before the resize, after the turn that EXIF asks for.
    pub decoded: Size,
}

/// The class defaults of the reference.
impl Default for Preprocessor {
    fn default() -> Self {
        Self {
            budget: PixelBudget { min: 56 * 56, max: 28 * 28 * 1280 },
            resize: true,
            filter: Filter::Bicubic,
            resizer: Resizer::Torchvision,
            rescale: Some(1.0 / 255.0),
            normalize: true,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            patch: 14,
            temporal_patch: 2,
            merge: 2,
            target: None,
        }
    }
}

impl Preprocessor {
    /// Reads preprocessor_config.json.
    ///
    /// Each of `size`, then `min_pixels` and `max_pixels`, overrides what came before it. Keys that
    /// have no effect on pictures in the reference have none here.
    ///
    /// # Errors
    /// [`MediaError::ConfigJson`], [`MediaError::Config`] for a value outside of its domain,
    /// [`MediaError::UnsupportedConfig`] for one that is not built, [`MediaError::Budget`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, MediaError> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|source| MediaError::ConfigJson { source: Some(source) })?;
        let Value::Object(map) = value else { return Err(MediaError::ConfigJson { source: None }) };
        Self::from_keys(&Keys(&map), Self::default())
    }

    /// The settings of a document over those of a class.
    pub(super) fn from_keys(keys: &Keys<'_>, class: Self) -> Result<Self, MediaError> {
        keys.refuse_unbuilt()?;
        let mut this = class;
        if let Some(size) = keys.present("size") {
            let edge = |name| size.get(name).and_then(Value::as_u64);
            let (Some(min), Some(max)) = (edge("shortest_edge"), edge("longest_edge")) else {
                let expected = "an object with whole shortest_edge and longest_edge (pixels)";
                return Err(wrong("size", size, expected));
            };
            this.budget = PixelBudget { min, max };
        }
        this.budget.min = keys.whole("min_pixels")?.unwrap_or(this.budget.min);
        this.budget.max = keys.whole("max_pixels")?.unwrap_or(this.budget.max);
        this.budget = this.budget.check()?;
        this.resize = keys.flag("do_resize")?;
        if let Some(value) = keys.present("resample") {
            let filter = match value.as_str() {
                Some(name) => Filter::from_name(name),
                None => value.as_u64().and_then(Filter::from_number),
            };
            let expected = "a filter of Pillow, 0 to 5 or its name";
            this.filter = filter.ok_or_else(|| wrong("resample", value, expected))?;
        }
        this.rescale = match (keys.flag("do_rescale")?, keys.number("rescale_factor")?) {
            (false, _) => None,
            (true, factor) => Some(factor.unwrap_or(1.0 / 255.0)),
        };
        this.normalize = keys.flag("do_normalize")?;
        this.mean = keys.channels("image_mean")?.unwrap_or(this.mean);
        this.std = keys.channels("image_std")?.unwrap_or(this.std);
        keys.refuse_null("do_resize", this.resize, &["size", "resample"])?;
        keys.refuse_null("do_rescale", this.rescale.is_some(), &["rescale_factor"])?;
        keys.refuse_null("do_normalize", this.normalize, &["image_mean", "image_std"])?;
        if this.normalize && this.std.contains(&0.0) {
            return Err(wrong("image_std", &keys.0["image_std"], "numbers other than 0"));
        }
        this.patch = keys.positive("patch_size")?.unwrap_or(this.patch);
        this.temporal_patch = keys.positive("temporal_patch_size")?.unwrap_or(this.temporal_patch);
        this.merge = keys.positive("merge_size")?.unwrap_or(this.merge);
        Ok(this)
    }

    /// The same with other limits, each on its own.
    ///
    /// # Errors
    /// [`MediaError::Budget`] where nothing is left between them.
    pub fn with_budget(mut self, min: Option<u64>, max: Option<u64>) -> Result<Self, MediaError> {
        self.budget.min = min.unwrap_or(self.budget.min);
        self.budget.max = max.unwrap_or(self.budget.max);
        self.budget = self.budget.check()?;
        Ok(self)
    }

    /// The same with a budget that is known to be good.
    pub(super) fn over_budget(mut self, budget: PixelBudget) -> Self {
        self.budget = budget;
        self
    }

    /// The same without a resize: sides must be multiples of a merged patch.
    #[must_use]
    pub fn without_resize(mut self) -> Self {
        self.resize = false;
        self
    }

    /// The same for pictures of any size as if they had `size`: what resized_height and
    /// resized_width ask for. It is rounded and brought into the budget as a picture's own.
    #[must_use]
    pub fn with_target(mut self, size: Option<Size>) -> Self {
        self.target = size;
        self
    }

    /// The same with another resize and its arithmetic.
    #[must_use]
    pub fn with_resizer(mut self, resizer: Resizer) -> Self {
        self.resizer = resizer;
        self
    }

    /// Least and most pixels of a resized picture.
    pub fn budget(&self) -> PixelBudget {
        self.budget
    }

    /// Pixels along a side of a patch.
    pub fn patch_size(&self) -> usize {
        self.patch
    }

    /// Frames in a patch.
    pub fn temporal_patch_size(&self) -> usize {
        self.temporal_patch
    }

    /// Patches along a side of a merged patch.
    pub fn merge_size(&self) -> usize {
        self.merge
    }

    /// Values of one row of `pixel_values`.
    pub fn row_values(&self) -> usize {
        3 * self.temporal_patch * self.patch * self.patch
    }

    /// Byte to value.
    pub fn normalization(&self) -> Normalization {
        Normalization::new(self)
    }

    /// The size that a picture gets; no pixel is read.
    ///
    /// # Errors
    /// Those of [`smart_resize`]; [`MediaError::NotAMultiple`] without a resize;
    /// [`MediaError::Limit`] for a budget that asks for more pixels than a decoded picture may have.
    pub fn resized(&self, size: Size) -> Result<Size, MediaError> {
        let factor = self.patch * self.merge;
        if self.resize || self.target.is_some() {
            let resized = smart_resize(self.target.unwrap_or(size), factor, self.budget)?;
            Limits::default().check_resized(resized)?;
            return Ok(resized);
        }
        if size.height == 0 || size.width == 0 {
            return Err(MediaError::Empty { size });
        }
        if !size.height.is_multiple_of(factor) || !size.width.is_multiple_of(factor) {
            return Err(MediaError::NotAMultiple { size, factor });
        }
        Ok(size)
    }

    /// The grid of `frames` frames of a resized size.
    pub fn grid(&self, frames: usize, resized: Size) -> GridThw {
        GridThw {
            t: frames.div_ceil(self.temporal_patch),
            h: resized.height / self.patch,
            w: resized.width / self.patch,
        }
    }

    /// Resizes a picture.
    ///
    /// # Errors
    /// Those of [`Preprocessor::resized`]; [`MediaError::Filter`].
    pub fn image(&self, picture: &Rgb8) -> Result<Prepared, MediaError> {
        let decoded = picture.size();
        let resized = self.resized(decoded)?;
        let mut frames = Frames::empty(resized, 1);
        self.resize_into(picture, resized, &mut frames)?;
        Ok(Prepared { frames, grid: self.grid(1, resized), decoded })
    }

    /// Adds a frame, resized to a size that [`Preprocessor::resized`] gave.
    pub(super) fn resize_into(
        &self,
        picture: &Rgb8,
        resized: Size,
        frames: &mut Frames,
    ) -> Result<(), MediaError> {
        frames.push_rows(|emit| {
            let pillow =
                |order, emit| resize_pillow::resize(picture, resized, self.filter, order, emit);
            match self.resizer {
                Resizer::Torchvision => resize::resize(picture, resized, self.filter, emit),
                Resizer::Pillow => pillow(PassOrder::Legacy, emit),
                Resizer::Pillow13 => pillow(PassOrder::Pillow13, emit),
            }
        })
    }

    /// `pixel_values` of prepared frames, `[t * h * w, row_values]`.
    pub fn pixel_values(&self, prepared: &Prepared) -> Vec<f32> {
        patch_rows(&prepared.frames, self, &self.normalization())
    }
}

/// Typed reads of a JSON object; null counts as absent, as in the reference.
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl Keys<'_> {
    pub(super) fn present(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Settings that another class of processor would heed, or that have no value that makes sense.
    fn refuse_unbuilt(&self) -> Result<(), MediaError> {
        // As in the reference: asked for without a size it is an error, with one it changes nothing.
        let crop = self.present("do_center_crop").is_some_and(|value| *value == Value::Bool(true));
        if crop && self.present("crop_size").is_none() {
            let expected = "false, or true with a crop_size";
            return Err(wrong("do_center_crop", &Value::Bool(true), expected));
        }
        for key in ["do_center_crop", "do_convert_rgb", "do_pad"] {
            // Pictures from files are RGB before the reference looks at do_convert_rgb.
            if let Some(value) = self.present(key).filter(|value| !value.is_boolean()) {
                return Err(wrong(key, value, "true or false"));
            }
        }
        // The result is patches, whatever the order of channels before.
        for key in ["data_format", "input_data_format"] {
            let orders = ["channels_first", "channels_last", "FIRST", "LAST", "none"];
            let found = self.present(key);
            if let Some(value) = found.filter(|value| !orders.iter().any(|order| *value == order)) {
                return Err(wrong(key, value, "channels_first or channels_last"));
            }
        }
        for (key, ours) in [
            ("image_processor_type", &["Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"][..]),
            ("video_processor_type", &["Qwen2VLVideoProcessor"]),
        ] {
            let found = self.present(key);
            if let Some(value) = found.filter(|value| !ours.iter().any(|name| *value == name)) {
                return Err(unbuilt(key, value, "the processors of Qwen2-VL are built"));
            }
        }
        Ok(())
    }

    /// A setting that is null although a step needs it; where it is absent the class has a default.
    fn refuse_null(
        &self,
        step: &'static str,
        done: bool,
        keys: &[&'static str],
    ) -> Result<(), MediaError> {
        for key in keys.iter().filter(|_| done) {
            if self.0.get(*key).is_some_and(Value::is_null) {
                let expected = match step {
                    "do_resize" => "a value, since do_resize is true",
                    "do_rescale" => "a value, since do_rescale is true",
                    _ => "a value, since do_normalize is true",
                };
                return Err(wrong(key, &Value::Null, expected));
            }
        }
        Ok(())
    }

    fn flag(&self, key: &'static str) -> Result<bool, MediaError> {
        let Some(value) = self.present(key) else { return Ok(true) };
        value.as_bool().ok_or_else(|| wrong(key, value, "true or false"))
    }

    pub(super) fn whole(&self, key: &'static str) -> Result<Option<u64>, MediaError> {
        let read = |value: &Value| {
            value.as_u64().ok_or_else(|| wrong(key, value, "a whole number from 0"))
        };
        self.present(key).map(read).transpose()
    }

    /// A size in pixels or patches: small enough that products of three stay in 64 bits.
    fn positive(&self, key: &'static str) -> Result<Option<usize>, MediaError> {
        let read = |value: &Value| {
            let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
            let number = number.filter(|number| (1..=4096).contains(number));
            number.ok_or_else(|| wrong(key, value, "a whole number from 1 to 4096"))
        };
        self.present(key).map(read).transpose()
    }

    pub(super) fn number(&self, key: &'static str) -> Result<Option<f64>, MediaError> {
        let read = |value: &Value| {
            let number = value.as_f64().filter(|number| number.is_finite() && *number != 0.0);
            number.ok_or_else(|| wrong(key, value, "a number other than 0"))
        };
        self.present(key).map(read).transpose()
    }

    /// Three numbers, or one for all channels.
    fn channels(&self, key: &'static str) -> Result<Option<[f64; 3]>, MediaError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let error = || wrong(key, value, "one number or a list of three");
        let list = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
        match *numbers.ok_or_else(error)?.as_slice() {
            [all] => Ok(Some([all; 3])),
            [red, green, blue] => Ok(Some([red, green, blue])),
            _ => Err(error()),
        }
    }
}

fn wrong(key: &'static str, found: &Value, expected: &'static str) -> MediaError {
    MediaError::Config { key, found: found.to_string(), expected }
}

fn unbuilt(key: &'static str, found: &Value, have: &'static str) -> MediaError {
    MediaError::UnsupportedConfig { key, found: found.to_string(), have }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Preprocessor, MediaError> {
        Preprocessor::from_json(json.as_bytes())
    }

    #[test]
    fn each_limit_overrides_the_one_before_it() {
        let budget =
            |json: &str| read(json).map(|read| (read.budget.min, read.budget.max)).unwrap();
        assert_eq!(budget("{}"), (3136, 1_003_520));
        let size = r#"{"size": {"shortest_edge": 10, "longest_edge": 20}, "min_pixels": null"#;
        assert_eq!(budget(&format!("{size}}}")), (10, 20));
        assert_eq!(budget(&format!("{size}, \"max_pixels\": 30}}")), (10, 30));
        let ours = read("{}").unwrap().with_budget(Some(1), None).unwrap();
        assert_eq!((ours.budget.min, ours.budget.max), (1, 1_003_520));
    }

    /// (document, what the message must name)
    const BROKEN: &[(&str, &str)] = &[
        ("[]", "not a JSON object"),
        ("{\"min_pixels\": ", "not a JSON object"),
        (r#"{"size": {"height": 3}}"#, "size"),
        (r#"{"min_pixels": 5, "max_pixels": 4}"#, "min_pixels 5 is above max_pixels 4"),
        (r#"{"min_pixels": 1.5}"#, "min_pixels"),
        (r#"{"resample": 6}"#, "resample"),
        (r#"{"do_resize": 1}"#, "do_resize"),
        (r#"{"image_mean": [1, 2]}"#, "image_mean"),
        (r#"{"image_std": [1, 0, 1]}"#, "image_std"),
        (r#"{"rescale_factor": 0}"#, "rescale_factor"),
        (r#"{"patch_size": 0}"#, "patch_size"),
        (r#"{"merge_size": 99999999}"#, "merge_size"),
        (r#"{"do_center_crop": true}"#, "do_center_crop is true, expected false, or true with"),
        (r#"{"do_convert_rgb": "yes"}"#, "do_convert_rgb"),
        (r#"{"data_format": "channels_middle"}"#, "data_format"),
        (r#"{"resample": "cubic"}"#, "resample"),
        (r#"{"resample": null}"#, "resample is null"),
        (r#"{"rescale_factor": null}"#, "since do_rescale is true"),
        (r#"{"image_mean": null}"#, "since do_normalize is true"),
        (r#"{"video_processor_type": "Other"}"#, "Other"),
        (r#"{"image_processor_type": "CLIPImageProcessor"}"#, "CLIPImageProcessor"),
    ];

    #[test]
    fn a_setting_is_right_or_named() {
        for (json, name) in BROKEN {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(name), "{json}: {error}");
        }
    }

    /// Documents of the reference whose settings leave the pixels alone, or name a default.
    const SAME: &[&str] = &[
        r#"{"do_convert_rgb": false, "data_format": "channels_first", "input_data_format": null}"#,
        r#"{"do_center_crop": true, "crop_size": {"height": 3, "width": 3}, "do_pad": true}"#,
        r#"{"resample": "bicubic", "do_rescale": true, "device": null, "disable_grouping": false}"#,
        r#"{"size": {"shortest_edge": 3136, "longest_edge": 1003520, "max_pixels": 5}}"#,
        r#"{"do_resize": true, "do_normalize": true, "return_tensors": "pt", "foo": 3}"#,
    ];

    #[test]
    fn settings_without_effect_are_taken() {
        for json in SAME {
            assert_eq!(read(json).unwrap(), Preprocessor::default(), "{json}");
        }
        let off = r#"{"do_rescale": false, "rescale_factor": null, "do_normalize": false, "image_mean": null}"#;
        assert_eq!(read(off).unwrap().rescale, None);
    }

    #[test]
    fn a_size_without_resize_must_be_whole_patches() {
        let fixed = read(r#"{"do_resize": false}"#).unwrap();
        let error = fixed.resized(Size { height: 60, width: 84 }).unwrap_err();
        assert!(error.to_string().contains("not a multiple of 28"));
        let whole = Size { height: 56, width: 84 };
        assert_eq!(fixed.resized(whole).unwrap(), whole);
    }
}
