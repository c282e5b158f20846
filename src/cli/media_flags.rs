//! `--image` and `--video`: their order on the line is the order of the parts.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::prompt::Part;

/// Media named by flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct MediaFlags {
    list: Vec<Medium>,
}

#[derive(Clone, Debug)]
enum Medium {
    Image(PathBuf),
    Video(PathBuf),
}

impl MediaFlags {
    /// Whether no flag was given.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One part for each flag.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        self.list.iter().map(|medium| match medium {
            Medium::Image(path) => Part::image_file(path),
            Medium::Video(path) => Part::video_file(path),
        })
    }
}

impl FromArgMatches for MediaFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = Vec::new();
        for (name, medium) in
            [("image", Medium::Image as fn(PathBuf) -> Medium), ("video", Medium::Video)]
        {
            let places = matches.indices_of(name).into_iter().flatten();
            let paths = matches.get_many::<PathBuf>(name).into_iter().flatten();
            found.extend(places.zip(paths.cloned().map(medium)));
        }
        found.sort_by_key(|(place, _)| *place);
        Ok(Self { list: found.into_iter().map(|(_, medium)| medium).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for MediaFlags {
    fn augment_args(command: Command) -> Command {
        let flag = |name: &'static str, value: &'static str, help: &'static str| {
            let parser = value_parser!(PathBuf);
            let arg = Arg::new(name).long(name).value_name(value).help(help);
            arg.value_parser(parser).action(ArgAction::Append)
        };
        let image = "A picture: PNG, JPEG, WebP, GIF or BMP; repeat it for several, in order";
        let video = "A video: mp4, mov, webm, mkv or avi (by ffmpeg), an animated GIF, WebP or PNG, \
                     or a folder of frames";
        command.arg(flag("image", "FILE", image)).arg(flag("video", "FILE|FOLDER", video))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
