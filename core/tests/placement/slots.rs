//! Sets of slots, one against the other, within a word and beyond it.

use rebloom_core::id::Slot;
use rebloom_core::placement::Slots;

fn slots(slots: &[u32]) -> Slots {
    slots.iter().copied().map(Slot).collect()
}

#[test]
fn a_slot_is_in_a_set_or_not_whatever_else_is() {
    let all = [0, 1, 5, 63, 64, 70, 127, 128, 200];
    for without in all {
        let others: Vec<_> = all.into_iter().filter(|slot| *slot != without).collect();
        let mut set = slots(&all);
        assert!(set.contains(Slot(without)));
        assert!(set.remove(Slot(without)));
        assert!(!set.remove(Slot(without)) && !set.contains(Slot(without)));
        assert!(set.iter().eq(others.iter().copied().map(Slot)));
        assert_eq!(set.len(), 8);
        assert!(slots(&all).holds(&set) && !set.holds(&slots(&all)));
        assert!(set.holds(&slots(&others)) && slots(&others).holds(&set));
        let mut rest = slots(&all);
        rest.subtract(&set);
        assert!(rest.iter().eq([Slot(without)]));
    }
    assert!(!slots(&[]).remove(Slot(500)) && !slots(&[]).contains(Slot(500)));
    assert!(slots(&[]).is_empty() && !slots(&[64]).is_empty() && !slots(&[3]).is_empty());
}

#[test]
fn taking_out_what_is_not_in_changes_nothing() {
    let mut set = slots(&[3, 66]);
    set.subtract(&slots(&[4, 67, 300]));
    assert!(set.iter().eq([Slot(3), Slot(66)]));
    set.insert(Slot(3));
    assert_eq!(set.len(), 2);
}
