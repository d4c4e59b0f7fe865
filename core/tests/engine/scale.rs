//! The size of BLOOM's cluster: 384 ranks on 48 of 52 nodes.

use crate::world::*;
use rebloom_core::engine::RunState;
use rebloom_core::id::Generation;

#[test]
fn bloom_re_forms_around_one_dead_rank_and_replaces_a_node() {
    let (mut world, run) = World::running(&[8; 52], spec("bloom", 4, 12, 8));
    let before = world.view(&run).ranks;
    let mark = world.orders.len();
    world.kill(&run, &[217]);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert_eq!(world.starts_since(mark).len(), 48);
    let moved = before
        .iter()
        .zip(&view.ranks)
        .filter(|(was, is)| was.pid != is.pid);
    assert_eq!(moved.count(), 1);

    let lost = world.node_of(&run, 217);
    world.destroy(&lost);
    world.pass(millis(3100));
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(3))
    );
    let moved = before
        .iter()
        .zip(&view.ranks)
        .filter(|(was, is)| was.seating != is.seating);
    assert_eq!(moved.count(), 8, "one spare takes what was on the node");
    assert!(view.ranks.iter().all(|rank| rank.seating.node != lost));
}
