//! CNI: ADD with a published port, beside the reference plugins.

use lab::Lab;

use crate::contest::Contender;

/// What ours is called among contenders.
pub const OURS: &str = "hawser";

/// None yet.
pub fn ours(_lab: &Lab) -> Option<Contender<'_>> {
    None
}
