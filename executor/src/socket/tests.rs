//! What the socket layer guarantees.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use onward_wire::message::{
    DefineStage, ForgetQuery, MAX_DESCRIPTORS, MapSegments, OutputSpec, SegmentRef, SegmentsMapped, ToFunction, ToHost,
    to_function, to_host,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::*;

const LIMIT: u64 = 8 << 20;

struct Pair {
    host: Sender<ToFunction>,
    from_function: Receiver<ToHost>,
    function: Sender<ToHost>,
    from_host: Receiver<ToFunction>,
}

fn pair() -> Pair {
    let (a, b) = UnixStream::pair().unwrap();
    let (host, flusher, from_function) = split(a, LIMIT);
    tokio::spawn(flusher.run());
    let (function, flusher, from_host) = split(b, LIMIT);
    tokio::spawn(flusher.run());
    Pair { host, from_function, function, from_host }
}

fn stage(bytes: usize) -> DefineStage {
    let plan = Bytes::from((0..bytes).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    DefineStage { plan, output: OutputSpec::default(), ..DefineStage::default() }
}

fn file(text: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}

fn mapped(descriptors: usize) -> SegmentsMapped {
    SegmentsMapped { request: 1, segments: vec![SegmentRef::default(); descriptors] }
}

/// A message many times the socket's buffer arrives whole, between small ones, in order.
#[tokio::test]
async fn big_messages_arrive_whole_and_in_order() {
    let mut pair = pair();
    let big = stage(5 << 20);
    let sender = pair.host.clone();
    let expected = big.clone();
    let sending = tokio::spawn(async move {
        for query in 0..3 {
            sender.send(ForgetQuery { query, kept: vec![] }, vec![]).await.unwrap();
            sender.send(big.clone(), vec![]).await.unwrap();
        }
    });
    for query in 0..3 {
        let (small, _) = pair.from_host.receive().await.unwrap();
        assert_eq!(small, ForgetQuery { query, kept: vec![] }.into());
        let (large, _) = pair.from_host.receive().await.unwrap();
        assert!(large == expected.clone().into());
    }
    sending.await.unwrap();
}

/// Descriptors belong to the message they were sent with, even when several frames share one read.
#[tokio::test]
async fn descriptors_stay_with_their_message() {
    let mut pair = pair();
    pair.host.try_send(mapped(2), vec![file("a"), file("b")]).unwrap();
    pair.host.try_send(ForgetQuery { query: 7, kept: vec![] }, vec![]).unwrap();
    pair.host.try_send(mapped(1), vec![file("c")]).unwrap();
    pair.host.try_send(mapped(MAX_DESCRIPTORS), (0..MAX_DESCRIPTORS).map(|i| file(&i.to_string())).collect()).unwrap();
    let mut texts = Vec::new();
    for _ in 0..4 {
        let (_, descriptors) = pair.from_host.receive().await.unwrap();
        texts.push(
            descriptors
                .into_iter()
                .map(|fd| {
                    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
                    let mut text = String::new();
                    File::from(fd).read_to_string(&mut text).unwrap();
                    text
                })
                .collect::<Vec<_>>(),
        );
    }
    let many: Vec<_> = (0..MAX_DESCRIPTORS).map(|i| i.to_string()).collect();
    assert_eq!(texts, [vec!["a".to_owned(), "b".to_owned()], vec![], vec!["c".to_owned()], many]);
}

/// A large message with a descriptor is written in parts; the descriptor still comes once.
#[tokio::test]
async fn a_large_message_carries_its_descriptor_once() {
    let mut pair = pair();
    let segments = vec![SegmentRef { segment: u64::MAX, length_bytes: u64::MAX, rows: u64::MAX }; 1];
    pair.host.try_send(stage(3 << 20), vec![]).unwrap();
    pair.host.try_send(SegmentsMapped { request: 9, segments }, vec![file("x")]).unwrap();
    let (_, none) = pair.from_host.receive().await.unwrap();
    let (_, one) = pair.from_host.receive().await.unwrap();
    assert_eq!((none.len(), one.len()), (0, 1));
}

/// Bytes may come one by one: a receiver never takes half a frame for a whole one.
#[tokio::test]
async fn partial_reads_make_whole_frames() {
    let (mut raw, b) = UnixStream::pair().unwrap();
    let (_sender, _flusher, mut receiver) = split::<ToFunction, ToHost>(b, LIMIT);
    let message: ToHost = MapSegments { request: 3, segments: vec![1, 2, 3] }.into();
    let body = prost::Message::encode_to_vec(&message);
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    for part in bytes.chunks(1) {
        assert!(futures::FutureExt::now_or_never(receiver.receive()).is_none());
        raw.write_all(part).await.unwrap();
    }
    assert_eq!(receiver.receive().await.unwrap().0, message);
}

/// The end of the stream between frames is a close; inside a frame it is an error of its own.
#[tokio::test]
async fn a_peer_that_closes_in_mid_frame_is_torn() {
    for (sent, is_torn) in [(0usize, false), (2, true), (100, true), (100_000, true)] {
        let (mut raw, b) = UnixStream::pair().unwrap();
        let (_sender, _flusher, mut receiver) = split::<ToFunction, ToHost>(b, LIMIT);
        let mut bytes = 200_000u32.to_le_bytes().to_vec();
        bytes.resize(200_004, 0);
        raw.write_all(&bytes[..sent]).await.unwrap();
        drop(raw);
        let error = receiver.receive().await.unwrap_err();
        assert_eq!(matches!(error, SocketError::Torn { .. }), is_torn, "{error}");
        assert_eq!(matches!(error, SocketError::Closed), !is_torn, "{error}");
    }
}

/// A frame over the limit is refused by the sender, and by a receiver before it buffers it.
#[tokio::test]
async fn an_oversized_frame_is_an_error_on_both_sides() {
    let pair = pair();
    let error = pair.host.try_send(stage(LIMIT as usize + 1), vec![]).unwrap_err();
    assert!(matches!(error, SocketError::TooLarge { .. }), "{error}");

    let (mut raw, b) = UnixStream::pair().unwrap();
    let (_sender, _flusher, mut receiver) = split::<ToFunction, ToHost>(b, LIMIT);
    raw.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let error = receiver.receive().await.unwrap_err();
    assert!(matches!(error, SocketError::TooLarge { .. }), "{error}");
}

/// A peer that never reads fills a bounded queue, not memory; one that reads again gets everything.
#[tokio::test]
async fn the_send_queue_is_bounded() {
    let mut pair = pair();
    let mut queued = 0;
    let error = loop {
        match pair.host.try_send(stage(1 << 20), vec![]) {
            Ok(()) => queued += 1,
            Err(error) => break error,
        }
        assert!(queued < 100);
    };
    assert!(matches!(error, SocketError::Full { .. }), "{error}");
    let sender = pair.host.clone();
    let waiting = tokio::spawn(async move { sender.send(ForgetQuery { query: 1, kept: vec![] }, vec![]).await });
    for _ in 0..queued {
        let (message, _) = pair.from_host.receive().await.unwrap();
        assert!(matches!(message.body, Some(to_function::Body::DefineStage(_))));
    }
    assert_eq!(pair.from_host.receive().await.unwrap().0, ForgetQuery { query: 1, kept: vec![] }.into());
    waiting.await.unwrap().unwrap();
}

/// Descriptors that no message announces (a function has none to send) end the connection.
#[tokio::test]
async fn unannounced_descriptors_are_refused() {
    let mut pair = pair();
    let error = pair.function.try_send(MapSegments::default(), vec![file("x")]).unwrap_err();
    assert!(matches!(error, SocketError::Descriptors { .. }), "{error}");

    let (a, b) = UnixStream::pair().unwrap();
    let (sender, _flusher, _) = split::<ToFunction, ToHost>(a, LIMIT);
    let (_, _, mut receiver) = split::<ToFunction, ToHost>(b, LIMIT);
    sender.try_send(mapped(1), vec![file("x")]).unwrap();
    assert!(receiver.receive().await.is_err());

    pair.function.try_send(MapSegments::default(), vec![]).unwrap();
    let (message, _) = pair.from_function.receive().await.unwrap();
    assert!(matches!(message.body, Some(to_host::Body::MapSegments(_))));
}

/// Closing one side wakes its own senders and ends the other side's receiver.
#[tokio::test]
async fn close_ends_both_directions() {
    let mut pair = pair();
    pair.host.close();
    assert!(matches!(pair.host.try_send(ForgetQuery { query: 1, kept: vec![] }, vec![]), Err(SocketError::Closed)));
    assert!(matches!(pair.from_host.receive().await, Err(SocketError::Closed)));
    assert!(matches!(pair.from_function.receive().await, Err(SocketError::Closed)));
    assert!(matches!(pair.function.try_send(MapSegments::default(), vec![]), Err(SocketError::Closed)));
}
