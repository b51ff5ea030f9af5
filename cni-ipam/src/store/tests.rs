//! Tests of the store as a whole. Those of its parts are in their files.

mod crowd;
mod damage;
mod death;
mod order;
mod speed;
