//! The halves under their released names.

use alloc::format;
use alloc::vec::Vec;

use super::MagvitConfig;
use crate::model::vqgan::{HalfPlan, LevelPlan, RGB, Stage};

const MIDDLE: [&str; 3] = ["block_1", "attn_1", "block_2"];

pub(super) fn encoder(config: &MagvitConfig) -> HalfPlan {
    let last = config.levels() - 1;
    let channels = config.channels();
    let level = |(i, &blocks): (usize, &usize)| LevelPlan {
        name: format!("encoder.down.{i}"),
        block: "block",
        channels: channels.encoder_level(i),
        blocks,
        attention: false,
        resample: (i < last).then_some(("downsample", false)),
        stage: Stage::at("enc.down", i),
    };
    let [_, top] = channels.encoder_level(last);
    HalfPlan {
        name: "encoder",
        first: [RGB, config.base_channels],
        levels: config
            .encoder_res_blocks
            .iter()
            .enumerate()
            .map(level)
            .collect(),
        middle: MIDDLE,
        channels: top,
        middle_first: false,
        last: [top, config.codebook_bits],
        stages: [
            "enc.conv_in",
            "enc.mid.block_1",
            "enc.mid.attn_1",
            "enc.mid.block_2",
            "enc.conv_out",
        ]
        .map(Stage::new),
    }
}

pub(super) fn decoder(config: &MagvitConfig) -> HalfPlan {
    let channels = config.channels();
    let level = |(i, &blocks): (usize, &usize)| LevelPlan {
        name: format!("decoder.up.{i}"),
        block: "block",
        channels: channels.decoder_level(i),
        blocks,
        attention: false,
        resample: (i > 0).then_some(("upsample", true)),
        stage: Stage::at("dec.up", i),
    };
    let [top, _] = channels.decoder_level(config.levels() - 1);
    let [_, bottom] = channels.decoder_level(0);
    // The highest level has the lowest resolution and comes first.
    let levels: Vec<_> = config
        .decoder_res_blocks
        .iter()
        .enumerate()
        .rev()
        .map(level)
        .collect();
    HalfPlan {
        name: "decoder",
        first: [config.codebook_bits, top],
        levels,
        middle: MIDDLE,
        channels: top,
        middle_first: true,
        last: [bottom, RGB],
        stages: [
            "dec.conv_in",
            "dec.mid.block_1",
            "dec.mid.attn_1",
            "dec.mid.block_2",
            "decoded",
        ]
        .map(Stage::new),
    }
}
