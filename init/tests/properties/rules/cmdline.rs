//! What holds for any kernel command line.

use hawser::buffer::Buffer;
use hawser::cmdline::translate;
use hawser::protocol::{Fact, LIMIT, Message};

use super::is_part_of;

/// Panics where something does not hold.
pub fn check(cmdline: &[u8]) {
    let mut space = vec![0; 2 * LIMIT];
    let mut message = Buffer::new(&mut space);
    // The kernel's isspace: what it cuts its own words at.
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    // Behind `--` the words are init's own.
    let own = cmdline.split(blank).take_while(|word| *word != b"--");
    let words = own.filter(|word| word.starts_with(b"ip="));
    match translate(cmdline, &mut message) {
        Err(fault) => {
            assert!(is_part_of(cmdline, fault.word) && !fault.cause.is_empty());
            assert!(fault.word.is_empty() == (words.clone().count() == 0));
            assert!(fault.word.is_empty() || fault.word.starts_with(b"ip="));
        }
        Ok(()) => {
            let Some(text) = message.finish() else { return };
            check_message(text, words.clone().count());
            check_space(cmdline, text);
        }
    }
    // No other word has a say in it.
    let only = words.collect::<Vec<_>>().join(&b' ');
    assert_eq!(outcome(cmdline), outcome(&only));
}

/// A network is all that a command line can ask for: a link for each word.
fn check_message(text: &[u8], words: usize) {
    assert!(text.starts_with(b"hawser 1\nlink ") && text.ends_with(b"\nend\n"));
    let message = Message::parse(text).expect("what is translated is a message");
    assert_eq!(message.len(), text.len());
    let count = |is: fn(&Fact<'_>) -> bool| message.facts().filter(|entry| is(&entry.fact)).count();
    let links = count(|fact| matches!(fact, Fact::Link { .. }));
    let addresses = count(|fact| matches!(fact, Fact::Address(_)));
    let routes = count(
        |fact| matches!(fact, Fact::Route { destination, gateway: Some(_) } if destination.len == 0),
    );
    let servers = count(|fact| matches!(fact, Fact::Nameserver(_)));
    let names = count(|fact| matches!(fact, Fact::Hostname(_)));
    assert_eq!((links, addresses), (words, words));
    assert!(routes <= words && servers <= 2 * words && names <= 1);
    assert_eq!(
        links + addresses + routes + servers + names,
        message.facts().count()
    );
}

/// What does not fit is noticed, and nothing is written behind the space.
fn check_space(cmdline: &[u8], text: &[u8]) {
    for len in [0, text.len() / 2, text.len() - 1] {
        let mut space = vec![0; len];
        let mut message = Buffer::new(&mut space);
        assert_eq!(translate(cmdline, &mut message), Ok(()));
        assert!(message.finish().is_none());
    }
}

fn outcome(cmdline: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut space = vec![0; 2 * LIMIT];
    let mut message = Buffer::new(&mut space);
    translate(cmdline, &mut message).map_err(|fault| fault.cause)?;
    Ok(message.finish().map(<[u8]>::to_vec))
}
