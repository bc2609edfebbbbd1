//! The halves under their released names.

use alloc::format;

use super::VqConfig;
use crate::model::vqgan::{HalfPlan, LevelPlan, RGB, Stage};

const MIDDLE: [&str; 3] = ["0", "1", "2"];

pub(super) fn encoder(config: &VqConfig) -> HalfPlan {
    let channels = config.channels();
    let last = channels.levels() - 1;
    let level = |i| LevelPlan {
        name: format!("encoder.conv_blocks.{i}"),
        block: "res",
        channels: channels.encoder_level(i),
        blocks: config.encoder_res_blocks,
        attention: i == last,
        resample: (i < last).then_some(("downsample", false)),
        stage: Stage::at("enc.conv_blocks", i),
    };
    let [_, top] = channels.encoder_level(last);
    HalfPlan {
        name: "encoder",
        first: [RGB, config.base_channels],
        levels: (0..=last).map(level).collect(),
        middle: MIDDLE,
        channels: top,
        middle_first: false,
        last: [top, config.z_channels],
        stages: [
            Stage::new("enc.conv_in"),
            Stage::at("enc.mid", 0),
            Stage::at("enc.mid", 1),
            Stage::at("enc.mid", 2),
            Stage::new("enc.conv_out"),
        ],
    }
}

pub(super) fn decoder(config: &VqConfig) -> HalfPlan {
    let channels = config.channels();
    let last = channels.levels() - 1;
    // Numbered as they run: 0 has the lowest resolution.
    let level = |i| LevelPlan {
        name: format!("decoder.conv_blocks.{i}"),
        block: "res",
        channels: channels.decoder_level(last - i),
        blocks: config.decoder_res_blocks,
        attention: i == 0,
        resample: (i < last).then_some(("upsample", true)),
        stage: Stage::at("dec.conv_blocks", i),
    };
    let [top, _] = channels.decoder_level(last);
    let [_, bottom] = channels.decoder_level(0);
    HalfPlan {
        name: "decoder",
        first: [config.z_channels, top],
        levels: (0..=last).map(level).collect(),
        middle: MIDDLE,
        channels: top,
        middle_first: true,
        last: [bottom, RGB],
        stages: [
            Stage::new("dec.conv_in"),
            Stage::at("dec.mid", 0),
            Stage::at("dec.mid", 1),
            Stage::at("dec.mid", 2),
            Stage::new("decoded"),
        ],
    }
}
