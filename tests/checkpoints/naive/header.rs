//! The header of a safetensors file.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// What a safetensors header says of a tensor. What else it says is passed over, be it a number that no float holds.
#[derive(serde::Deserialize)]
pub struct Info {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data_offsets: [usize; 2],
}

/// A safetensors header without its metadata.
pub struct Header(pub BTreeMap<String, Info>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Infos;
        impl<'de> Visitor<'de> for Infos {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut infos = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        infos.insert(name, map.next_value()?);
                    }
                }
                Ok(Header(infos))
            }
        }
        deserializer.deserialize_map(Infos)
    }
}
