//! Media parts of a message: where the medium is, and the settings beside it (docs/spec.md, sections
//! 4.3 and 5.3).

use std::path::Path;

use serde_json::Value;

use super::message::{Held, PartKind, near, shortened};
use super::{Part, PromptError, Spot};
use crate::media::{FrameSampling, FrameWishes, Limits, Size, Source, VideoSource};

/// Keys of an image part that name its source, in the order in which they count.
const IMAGE_SOURCES: [&str; 5] = ["image", "url", "path", "base64", "image_url"];
/// The same of a video part.
const VIDEO_SOURCES: [&str; 5] = ["video", "url", "path", "base64", "video_url"];
/// Keys of an image part that are no source.
const IMAGE_SETTINGS: [&str; 7] =
    ["type", "text", "detail", "min_pixels", "max_pixels", "resized_height", "resized_width"];
/// The same of a video part; what stands behind another key here is its second name.
const VIDEO_SETTINGS: [&str; 19] = [
    "type",
    "text",
    "min_pixels",
    "max_pixels",
    "total_pixels",
    "resized_height",
    "resized_width",
    "fps",
    "video_fps",
    "num_frames",
    "nframes",
    "min_frames",
    "max_frames",
    "start",
    "video_start",
    "end",
    "video_end",
    "do_sample_frames",
    "source_fps",
];

/// The size that a part asks for, each over the processor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SizeWishes {
    pub(super) min_pixels: Option<u64>,
    pub(super) max_pixels: Option<u64>,
    /// resized_height and resized_width.
    pub(super) target: Option<Size>,
}

/// A picture as a part asks for it.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) source: Source,
    pub(super) size: SizeWishes,
}

/// A video as a part asks for it.
#[derive(Clone, Debug)]
pub(super) struct Clip {
    pub(super) source: VideoSource,
    pub(super) size: SizeWishes,
    /// Pixels of all frames together.
    pub(super) total_pixels: Option<u64>,
    /// Frames a second of a source that does not say.
    pub(super) source_fps: Option<f64>,
    frames: FrameWishes,
    do_sample_frames: Option<bool>,
}

impl Clip {
    /// The rate that the part asks for.
    pub(super) fn asked_fps(&self) -> Option<f64> {
        self.frames.fps
    }

    /// What the part says over what holds without it.
    pub(super) fn sampling(&self, base: FrameSampling) -> FrameSampling {
        let sampling = self.frames.over(base);
        match self.do_sample_frames {
            Some(false) => FrameSampling { fps: None, num_frames: None, ..sampling },
            _ => sampling,
        }
    }
}

impl Part {
    /// The picture of an image part.
    pub(super) fn picture(
        &self,
        folder: &Path,
        spot: Spot,
        limits: &Limits,
    ) -> Result<Picture, PromptError> {
        self.check_keys(spot, &IMAGE_SOURCES, &IMAGE_SETTINGS)?;
        match self.json.get("detail").and_then(Value::as_str) {
            None | Some("auto" | "high") => {}
            Some(_) => {
                let what = "a detail other than auto and high; use max_pixels";
                return Err(PromptError::Unsupported { spot, what });
            }
        }
        let size = self.size_wishes(spot)?;
        let source = match &self.held {
            Some(Held::Image(source)) => source.clone(),
            _ => {
                let problem = "an image part needs one of image, url, path, base64, image_url";
                let (key, value) = self.source(spot, &IMAGE_SOURCES, problem)?;
                text_source(value, key, folder, spot, limits)?
            }
        };
        Ok(Picture { source, size })
    }

    /// The video of a video part.
    pub(super) fn clip(
        &self,
        folder: &Path,
        spot: Spot,
        limits: &Limits,
    ) -> Result<Clip, PromptError> {
        self.check_keys(spot, &VIDEO_SOURCES, &VIDEO_SETTINGS)?;
        let source = match &self.held {
            Some(Held::Video(source)) => source.clone(),
            _ => {
                let problem = "a video part needs one of video, url, path, base64, video_url";
                let (key, value) = self.source(spot, &VIDEO_SOURCES, problem)?;
                match value {
                    Value::Array(list) => {
                        let read = |value| text_source(value, key, folder, spot, limits);
                        VideoSource::Frames(list.iter().map(read).collect::<Result<_, _>>()?)
                    }
                    one => match one.as_str().map(|text| folder.join(text)) {
                        Some(path) if path.is_dir() => VideoSource::File(Source::Path(path)),
                        _ => VideoSource::File(text_source(one, key, folder, spot, limits)?),
                    },
                }
            }
        };
        let do_sample_frames = match self.present("do_sample_frames") {
            None => None,
            Some(Value::Bool(flag)) => Some(*flag),
            Some(other) => {
                return Err(wrong(spot, "do_sample_frames", other, "true or false"));
            }
        };
        Ok(Clip {
            source,
            size: self.size_wishes(spot)?,
            total_pixels: self.whole("total_pixels", spot)?,
            source_fps: self.number("source_fps", spot)?.filter(|fps| *fps > 0.0),
            frames: FrameWishes {
                fps: self.either(Self::number, ["fps", "video_fps"], spot)?,
                num_frames: self.either(Self::whole, ["num_frames", "nframes"], spot)?,
                min_frames: self.whole("min_frames", spot)?,
                max_frames: self.whole("max_frames", spot)?,
                start: self.either(Self::number, ["start", "video_start"], spot)?,
                end: self.either(Self::number, ["end", "video_end"], spot)?,
            },
            do_sample_frames,
        })
    }

    /// Whether the part is no medium, or says where its medium is.
    pub(super) fn has_source(&self) -> bool {
        let keys: &[&str] = match self.kind() {
            PartKind::Image => &IMAGE_SOURCES,
            PartKind::Video => &VIDEO_SOURCES,
            PartKind::Text | PartKind::Other => return true,
        };
        self.held.is_some() || keys.iter().any(|key| self.json.contains_key(*key))
    }

    fn check_keys(
        &self,
        spot: Spot,
        sources: &[&'static str],
        settings: &[&'static str],
    ) -> Result<(), PromptError> {
        for key in self.json.keys() {
            let known = || sources.iter().chain(settings).copied();
            if !known().any(|name| name == key) {
                let near = near(key, known());
                return Err(PromptError::UnknownKey { spot, key: key.clone(), near });
            }
        }
        Ok(())
    }

    /// The first source key counts.
    fn source(
        &self,
        spot: Spot,
        keys: &[&'static str],
        problem: &'static str,
    ) -> Result<(&'static str, &Value), PromptError> {
        let present = keys.iter().find_map(|key| Some((*key, self.json.get(*key)?)));
        let (key, value) = present.ok_or(PromptError::Message { spot, problem })?;
        Ok((key, value.get("url").unwrap_or(value)))
    }

    fn size_wishes(&self, spot: Spot) -> Result<SizeWishes, PromptError> {
        let side = |key| -> Result<Option<usize>, PromptError> {
            let side = self.whole(key, spot)?.map(usize::try_from);
            Ok(side.map(|side| side.unwrap_or(usize::MAX)))
        };
        let target = match (side("resized_height")?, side("resized_width")?) {
            (Some(height), Some(width)) => Some(Size { height, width }),
            (None, None) => None,
            _ => {
                let problem = "resized_height and resized_width go together";
                return Err(PromptError::Message { spot, problem });
            }
        };
        let (min_pixels, max_pixels) =
            (self.whole("min_pixels", spot)?, self.whole("max_pixels", spot)?);
        Ok(SizeWishes { min_pixels, max_pixels, target })
    }

    /// A setting, beside the source or, in the form of other services, inside of it.
    fn present(&self, key: &str) -> Option<&Value> {
        let inner = || {
            let outer = ["image_url", "video_url"].into_iter();
            outer.filter_map(|outer| self.json.get(outer)?.get(key)).next()
        };
        self.json.get(key).or_else(inner).filter(|value| !value.is_null())
    }

    fn whole(&self, key: &'static str, spot: Spot) -> Result<Option<u64>, PromptError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| *number > 0);
        number.map(Some).ok_or_else(|| wrong(spot, key, value, "a whole number from 1"))
    }

    fn number(&self, key: &'static str, spot: Spot) -> Result<Option<f64>, PromptError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        number.map(Some).ok_or_else(|| wrong(spot, key, value, "a number from 0"))
    }

    /// A setting with two names; both at once are one too many.
    fn either<T>(
        &self,
        read: impl Fn(&Self, &'static str, Spot) -> Result<Option<T>, PromptError>,
        [name, alias]: [&'static str; 2],
        spot: Spot,
    ) -> Result<Option<T>, PromptError> {
        match (read(self, name, spot)?, read(self, alias, spot)?) {
            (Some(_), Some(_)) => {
                let problem = "a setting is given under two names";
                Err(PromptError::Message { spot, problem })
            }
            (first, second) => Ok(first.or(second)),
        }
    }
}

/// A path, a data: URL or base64.
fn text_source(
    value: &Value,
    key: &'static str,
    folder: &Path,
    spot: Spot,
    limits: &Limits,
) -> Result<Source, PromptError> {
    let expected = "a path, a data: URL or base64, as a string";
    let text = value.as_str().ok_or_else(|| wrong(spot, key, value, expected))?;
    Source::from_text(text, folder, limits).map_err(|source| PromptError::Media { spot, source })
}

fn wrong(spot: Spot, key: &'static str, value: &Value, expected: &'static str) -> PromptError {
    PromptError::Value { spot, key, found: shortened(&value.to_string()), expected }
}

#[cfg(test)]
mod tests {
    use super::super::message::PartKind;
    use super::super::{Conversations, Message};
    use super::*;

    fn part(json: &str) -> Part {
        let json = format!("[{{\"role\": \"user\", \"content\": [{json}]}}]");
        let conversations = Conversations::from_json(json.as_bytes(), Path::new("/x")).unwrap();
        let message: &Message = &conversations.list[0].messages[0];
        message.parts()[0].clone()
    }

    fn picture(json: &str) -> Result<Picture, PromptError> {
        let part = part(json);
        assert_eq!(part.kind(), PartKind::Image);
        part.picture(Path::new(""), Spot::default(), &Limits::default())
    }

    fn clip(json: &str) -> Result<Clip, PromptError> {
        let part = part(json);
        assert_eq!(part.kind(), PartKind::Video);
        part.clip(Path::new(""), Spot::default(), &Limits::default())
    }

    const URL: &str = "data:image/png;base64,AQID";

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_one() {
        let error = picture(r#"{"type": "image", "path": "a", "max_pixel": 5}"#).err().unwrap();
        let expected = r#"unknown key "max_pixel" in a media part, did you mean "max_pixels"?"#;
        assert_eq!(error.to_string(), format!("message 0: {expected}"));
        let error = clip(r#"{"type": "video", "path": "a", "num_frame": 5}"#).err().unwrap();
        assert!(error.to_string().contains(r#"did you mean "num_frames"?"#), "{error}");
    }

    #[test]
    fn the_first_source_counts_and_pixels_are_read_in_both_places() {
        let part =
            format!(r#"{{"image_url": {{"url": "{URL}", "max_pixels": 9}}, "min_pixels": 4}}"#);
        let found = picture(&part).unwrap();
        assert_eq!(found.source, Source::Bytes(vec![1, 2, 3]));
        assert_eq!((found.size.min_pixels, found.size.max_pixels), (Some(4), Some(9)));
        let both = format!(r#"{{"path": "/nowhere", "image": "{URL}"}}"#);
        assert_eq!(picture(&both).unwrap().source, Source::Bytes(vec![1, 2, 3]));
        let error = picture(r#"{"type": "image"}"#).err().unwrap().to_string();
        assert!(error.contains("needs one of image, url, path"), "{error}");
    }

    #[test]
    fn a_video_is_a_file_or_a_list_with_its_sampling_beside_it() {
        let list = format!(r#"{{"type": "video", "video": ["{URL}", "{URL}"], "nframes": 2}}"#);
        let found = clip(&list).unwrap();
        assert_eq!(found.source, VideoSource::Frames(vec![Source::Bytes(vec![1, 2, 3]); 2]));
        let base = FrameSampling { fps: Some(1.0), max_frames: 9, ..FrameSampling::default() };
        let sampling = found.sampling(base);
        assert_eq!((sampling.fps, sampling.num_frames, sampling.max_frames), (None, Some(2), 9));
        let one = format!(r#"{{"video": "{URL}", "video_fps": 0.5, "video_end": 3}}"#);
        let sampling = clip(&one).unwrap().sampling(base);
        assert_eq!((sampling.fps, sampling.end), (Some(0.5), Some(3.0)));
        let off = format!(r#"{{"video": "{URL}", "do_sample_frames": false}}"#);
        assert_eq!(clip(&off).unwrap().sampling(base).fps, None);
    }

    /// (settings of a video part, what the message must name)
    const BROKEN: &[(&str, &str)] = &[
        (r#""fps": "2""#, "fps is \"2\""),
        (r#""fps": 2, "video_fps": 2"#, "under two names"),
        (r#""num_frames": 0"#, "num_frames is 0"),
        (r#""num_frames": 2.5"#, "num_frames is 2.5"),
        (r#""start": -1"#, "start is -1"),
        (r#""resized_height": 28"#, "go together"),
        (r#""do_sample_frames": 1"#, "do_sample_frames is 1"),
        (r#""detail": "high""#, "unknown key \"detail\""),
    ];

    #[test]
    fn a_setting_is_right_or_named() {
        for (settings, name) in BROKEN {
            let error = clip(&format!(r#"{{"video": "{URL}", {settings}}}"#)).err().unwrap();
            assert!(error.to_string().contains(name), "{settings}: {error}");
        }
        let error = clip(r#"{"video": [3]}"#).err().unwrap().to_string();
        assert!(error.contains("video is 3, expected a path"), "{error}");
    }
}
