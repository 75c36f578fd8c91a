use super::*;

fn rope(chunks: &[Bytes]) -> Rope {
    let mut builder = RopeBuilder::default();
    for chunk in chunks {
        builder.push(chunk.clone());
    }
    builder.finish()
}

fn chunks(mut rope: Rope) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    while !rope.is_empty() {
        let before = rope.len();
        let chunk = rope.take(usize::MAX);
        assert!(!chunk.is_empty());
        assert_eq!(rope.len(), before - chunk.len());
        chunks.push(chunk);
    }
    assert!(rope.take(usize::MAX).is_empty());
    chunks
}

/// So many bytes, all different from their neighbours.
fn bytes(length: usize) -> Bytes {
    (0..length).map(|at| at as u8).collect()
}

#[test]
fn large_chunks_stay_where_they_are() {
    let old = [bytes(SMALL), bytes(PIECE), bytes(3 * SMALL)];
    let new = chunks(rope(&old));
    assert_eq!(new, old);
    for (new, old) in new.iter().zip(&old) {
        assert_eq!(new.as_ptr(), old.as_ptr());
    }
}

#[test]
fn a_single_small_chunk_stays_where_it_is() {
    let old = bytes(3);
    let new = chunks(rope(&[Bytes::new(), old.clone(), Bytes::new()]));
    assert_eq!((new.len(), new[0].as_ptr()), (1, old.as_ptr()));
}

#[test]
fn small_chunks_are_joined_between_large_ones() {
    let (small, large) = (bytes(SMALL - 1), bytes(SMALL));
    let order = [&large, &small, &small, &small, &large, &large, &small];
    let new = chunks(rope(&order.map(Bytes::clone)));
    assert_eq!(new.concat(), order.map(|chunk| &chunk[..]).concat());
    let lengths = new.iter().map(Bytes::len);
    assert!(lengths.eq([SMALL, 3 * (SMALL - 1), SMALL, SMALL, SMALL - 1]));
}

/// Neither its bookkeeping nor what the chunks kept in memory may be much larger than the body.
#[test]
fn a_body_in_single_bytes_needs_little_more_memory_than_its_length() {
    let length = 1_000_000;
    let buffer = bytes(length);
    let mut builder = RopeBuilder::default();
    for at in 0..length {
        builder.push(buffer.slice(at..=at));
    }
    let rope = builder.finish();
    assert_eq!(rope.len(), length);
    let capacity = rope.rest.as_ref().map_or(0, |rest| rest.capacity());
    assert!(capacity < 100, "{capacity}");
    let kept = chunks(rope);
    assert_eq!(kept.concat(), buffer);
    let behind = &kept[1..];
    assert!(
        behind
            .iter()
            .all(|chunk| !buffer.as_ptr_range().contains(&chunk.as_ptr()))
    );
}

#[test]
fn a_clone_shares_the_bytes_and_is_read_by_itself() {
    let old = rope(&[bytes(SMALL), bytes(10), bytes(SMALL)]);
    let expected = chunks(old.clone());
    let mut other = old.clone();
    other.skip(SMALL + 5);
    assert_eq!((old.len(), other.len()), (2 * SMALL + 10, SMALL + 5));
    for (new, old) in chunks(old).iter().zip(&expected) {
        assert_eq!((new.as_ptr(), new.len()), (old.as_ptr(), old.len()));
    }
    assert_eq!(chunks(other).concat(), expected.concat()[SMALL + 5..]);
}

#[test]
fn as_much_is_taken_as_is_asked_for() {
    let mut rope = rope(&[bytes(SMALL), bytes(2 * PIECE)]);
    assert_eq!(rope.take(10).len(), 10);
    assert_eq!(rope.take(usize::MAX).len(), SMALL - 10);
    assert_eq!(rope.take(usize::MAX).len(), PIECE);
    rope.skip(PIECE - 1);
    assert_eq!(rope.take(10).len(), 1);
    assert!(rope.is_empty());
    assert!(rope.take(10).is_empty());
}
