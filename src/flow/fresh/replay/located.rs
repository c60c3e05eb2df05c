//! Where a value stands in a JSON body.

use std::{borrow::Cow, fmt, ops::Range};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::profile::{JsonPath, JsonStep};

/// Where the value of a path stands in a whole body.
pub fn json_value_range(body: &[u8], path: &JsonPath) -> Option<Range<usize>> {
    let mut parser = serde_json::Deserializer::from_slice(body);
    let text = Locate(&path.0).deserialize(&mut parser).ok()??;
    parser.end().ok()?;
    let start = (text.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let range = start..start.checked_add(text.len())?;
    (range.end <= body.len()).then_some(range)
}

struct Locate<'p>(&'p [JsonStep]);

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            return <&RawValue>::deserialize(deserializer).map(|raw| Some(raw.get()));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Locate<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array or object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        for index in 0.. {
            match self.0.split_first() {
                Some((JsonStep::Index(wanted), rest)) if *wanted == index => match list.next_element_seed(Locate(rest))? {
                    Some(text) => found = text,
                    None => break,
                },
                _ => {
                    if list.next_element::<IgnoredAny>()?.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.0.split_first() {
                Some((JsonStep::Key(wanted), rest)) if *wanted == key => found = map.next_value_seed(Locate(rest))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}
