//! nf_tables objects as netlink messages. Names and numbers are those of `linux/netfilter/nf_tables.h`;
//! integers are big-endian.

use hawser::netlink::Writer;

use super::expression::Expression;
use super::object::{Chain, Element, Family, Rule, Set, SetKind, Type};

const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_DATA_VALUE: u16 = 1;

/// How many elements a message takes: the list is an attribute, which holds 64 KiB, and an element has at most 200 bytes.
const ELEMENTS_A_MESSAGE: usize = 256;

/// Messages for our tables, as one batch or as questions. All of them are of tables of one name.
pub struct Batch<'w, 'b> {
    writer: &'w mut Writer<'b>,
    sequence: u32,
    table: &'w str,
}

impl<'w, 'b> Batch<'w, 'b> {
    /// Messages about the tables called `table`, numbered from `sequence` on.
    pub fn new(writer: &'w mut Writer<'b>, sequence: u32, table: &'w str) -> Self {
        Batch {
            writer,
            sequence,
            table,
        }
    }

    /// The number of the message that was written last.
    pub fn last(&self) -> u32 {
        self.sequence - 1
    }

    /// Begins a transaction: all of it happens, or nothing.
    pub fn begin(&mut self) {
        self.mark(libc::NFNL_MSG_BATCH_BEGIN as u16);
    }

    /// Begins one that is refused when the ruleset is not that of this number any more (see [`Batch::ask_generation`]).
    pub fn begin_at(&mut self, generation: u32) {
        const NFNL_BATCH_GENID: u16 = 1;
        let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
        let kind = libc::NFNL_MSG_BATCH_BEGIN as u16;
        self.writer
            .begin(kind, 0, self.sequence, &[0, 0, high, low]);
        self.writer.number(NFNL_BATCH_GENID, generation.to_be());
        self.writer.end();
        self.sequence += 1;
    }

    /// Asks for the number that counts changes of the ruleset.
    pub fn ask_generation(&mut self) {
        let kind = kind(libc::NFT_MSG_GETGEN);
        self.writer.begin(kind, 0, self.sequence, &[0; 4]);
        self.writer.end();
        self.sequence += 1;
    }

    /// Ends the transaction. Gives the number of the last message before it, whose acknowledgement ends the exchange
    /// (kernels before 6.10 do not acknowledge this one).
    pub fn commit(&mut self) -> u32 {
        let last = self.last();
        self.writer.ask_acknowledgement();
        self.mark(libc::NFNL_MSG_BATCH_END as u16);
        last
    }

    /// Ends what is not to happen: the kernel judges a transaction without an end, and forgets it. Gives the number of the last
    /// message, whose acknowledgement ends the exchange.
    pub fn abandon(&mut self) -> u32 {
        self.writer.ask_acknowledgement();
        self.last()
    }

    fn mark(&mut self, kind: u16) {
        // struct nfgenmsg: the subsystem that the batch is for, in network byte order (linux/netfilter/nfnetlink.h).
        let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
        self.writer
            .begin(kind, 0, self.sequence, &[0, 0, high, low]);
        self.writer.end();
        self.sequence += 1;
    }

    fn message(&mut self, family: Family, kind: i32, flags: i32, write: impl FnOnce(&mut Writer)) {
        let kind = self::kind(kind);
        self.writer
            .begin(kind, flags as u16, self.sequence, &[family as u8, 0, 0, 0]);
        // Every message of this subsystem names its table in attribute 1.
        self.writer.string(1, self.table);
        write(self.writer);
        self.writer.end();
        self.sequence += 1;
    }

    /// Adds a table, with a comment that nft shows; one that is there is left as it is.
    pub fn add_table(&mut self, family: Family, comment: &str) {
        const NFTA_TABLE_USERDATA: u16 = 6;
        self.message(family, libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, |w| {
            // nft's own notation: type 0 is the comment, then its length with the NUL, then itself.
            let mut data = vec![0, comment.len() as u8 + 1];
            data.extend(comment.bytes());
            data.push(0);
            w.attribute(NFTA_TABLE_USERDATA, &data);
        });
    }

    /// Deletes a table and all that is in it.
    pub fn delete_table(&mut self, family: Family) {
        self.message(family, libc::NFT_MSG_DELTABLE, 0, |_| {});
    }

    /// Asks for a table.
    pub fn ask_table(&mut self, family: Family) {
        self.message(family, libc::NFT_MSG_GETTABLE, 0, |_| {});
    }

    /// Adds a chain; one that is there keeps its rules.
    pub fn add_chain(&mut self, family: Family, chain: &Chain) {
        const NFTA_CHAIN_NAME: u16 = 3;
        const NFTA_CHAIN_HOOK: u16 = 4;
        const NFTA_CHAIN_TYPE: u16 = 7;
        const NFTA_HOOK_HOOKNUM: u16 = 1;
        const NFTA_HOOK_PRIORITY: u16 = 2;
        self.message(family, libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, |w| {
            w.string(NFTA_CHAIN_NAME, chain.name);
            if let Some(hook) = &chain.hook {
                nest(w, NFTA_CHAIN_HOOK, |w| {
                    w.attribute(NFTA_HOOK_HOOKNUM, &hook.number.to_be_bytes());
                    w.attribute(NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
                });
                w.string(NFTA_CHAIN_TYPE, hook.kind);
            }
        });
    }

    /// Deletes a chain that has no rules.
    pub fn delete_chain(&mut self, family: Family, name: &str) {
        const NFTA_CHAIN_NAME: u16 = 3;
        self.message(family, libc::NFT_MSG_DELCHAIN, 0, |w| {
            w.string(NFTA_CHAIN_NAME, name)
        });
    }

    /// Asks for a chain.
    pub fn ask_chain(&mut self, family: Family, name: &str) {
        const NFTA_CHAIN_NAME: u16 = 3;
        self.message(family, libc::NFT_MSG_GETCHAIN, 0, |w| {
            w.string(NFTA_CHAIN_NAME, name)
        });
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, family: Family, rule: &Rule) {
        const NFTA_RULE_CHAIN: u16 = 2;
        const NFTA_RULE_EXPRESSIONS: u16 = 4;
        self.message(
            family,
            libc::NFT_MSG_NEWRULE,
            libc::NLM_F_CREATE | libc::NLM_F_APPEND,
            |w| {
                w.string(NFTA_RULE_CHAIN, rule.chain);
                nest(w, NFTA_RULE_EXPRESSIONS, |w| {
                    for expression in &rule.expressions {
                        nest(w, NFTA_LIST_ELEM, |w| expression.write(w));
                    }
                });
            },
        );
    }

    /// Asks for all rules of a chain.
    pub fn ask_rules(&mut self, family: Family, chain: &str) {
        const NFTA_RULE_CHAIN: u16 = 2;
        self.message(family, libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP, |w| {
            w.string(NFTA_RULE_CHAIN, chain)
        });
    }

    /// Deletes all rules of a chain.
    pub fn delete_rules(&mut self, family: Family, chain: &str) {
        const NFTA_RULE_CHAIN: u16 = 2;
        self.message(family, libc::NFT_MSG_DELRULE, 0, |w| {
            w.string(NFTA_RULE_CHAIN, chain)
        });
    }

    /// Adds a set; one that is there keeps its elements.
    pub fn add_set(&mut self, family: Family, set: &Set, id: u32) {
        const NFTA_SET_NAME: u16 = 2;
        const NFTA_SET_FLAGS: u16 = 3;
        const NFTA_SET_KEY_TYPE: u16 = 4;
        const NFTA_SET_KEY_LEN: u16 = 5;
        const NFTA_SET_DATA_TYPE: u16 = 6;
        const NFTA_SET_DATA_LEN: u16 = 7;
        const NFTA_SET_DESC: u16 = 9;
        const NFTA_SET_ID: u16 = 10;
        const NFTA_SET_EXPR: u16 = 17;
        const NFTA_SET_DESC_CONCAT: u16 = 2;
        const NFTA_SET_FIELD_LEN: u16 = 1;
        const NFT_SET_INTERVAL: u32 = 4;
        const NFT_SET_MAP: u32 = 8;
        const NFT_SET_CONCAT: u32 = 0x80;
        self.message(family, libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE, |w| {
            let mut flags = 0;
            if !set.value.is_empty() {
                flags |= NFT_SET_MAP;
            }
            if set.kind == SetKind::Ranges {
                flags |= NFT_SET_INTERVAL | NFT_SET_CONCAT;
            }
            w.string(NFTA_SET_NAME, set.name);
            w.number(NFTA_SET_FLAGS, flags.to_be());
            w.number(NFTA_SET_KEY_TYPE, type_number(set.key).to_be());
            w.number(NFTA_SET_KEY_LEN, length(set.key).to_be());
            if !set.value.is_empty() {
                w.number(NFTA_SET_DATA_TYPE, type_number(set.value).to_be());
                w.number(NFTA_SET_DATA_LEN, length(set.value).to_be());
            }
            w.number(NFTA_SET_ID, id.to_be());
            if set.kind == SetKind::Ranges {
                nest(w, NFTA_SET_DESC, |w| {
                    nest(w, NFTA_SET_DESC_CONCAT, |w| {
                        for field in set.key {
                            nest(w, NFTA_LIST_ELEM, |w| {
                                w.number(NFTA_SET_FIELD_LEN, (field.len() as u32).to_be());
                            });
                        }
                    });
                });
            }
            if set.kind == SetKind::Counting {
                nest(w, NFTA_SET_EXPR, |w| Expression::Counter.write(w));
            }
        });
    }

    /// Deletes a set that no rule uses.
    pub fn delete_set(&mut self, family: Family, name: &str) {
        const NFTA_SET_NAME: u16 = 2;
        self.message(family, libc::NFT_MSG_DELSET, 0, |w| {
            w.string(NFTA_SET_NAME, name)
        });
    }

    /// Adds elements (`NFT_MSG_NEWSETELEM`), deletes them (`NFT_MSG_DELSETELEM`) or asks for them
    /// (`NFT_MSG_GETSETELEM`). Neighbours of one set travel in one message.
    pub fn elements(&mut self, kind: i32, flags: i32, elements: &[Element]) {
        let same_set = |a: &Element, b: &Element| a.set == b.set && a.family == b.family;
        for group in elements.chunk_by(same_set) {
            for some in group.chunks(ELEMENTS_A_MESSAGE) {
                self.some_elements(kind, flags, some);
            }
        }
    }

    fn some_elements(&mut self, kind: i32, flags: i32, elements: &[Element]) {
        const NFTA_SET_ELEM_LIST_SET: u16 = 2;
        const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
        const NFTA_SET_ELEM_KEY: u16 = 1;
        const NFTA_SET_ELEM_DATA: u16 = 2;
        const NFTA_SET_ELEM_KEY_END: u16 = 10;
        let Some(first) = elements.first() else {
            return;
        };
        self.message(first.family, kind, flags, |w| {
            w.string(NFTA_SET_ELEM_LIST_SET, first.set);
            nest(w, NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                for element in elements {
                    nest(w, NFTA_LIST_ELEM, |w| {
                        nest(w, NFTA_SET_ELEM_KEY, |w| {
                            w.attribute(NFTA_DATA_VALUE, &element.key)
                        });
                        if let Some(end) = &element.key_end {
                            nest(w, NFTA_SET_ELEM_KEY_END, |w| {
                                w.attribute(NFTA_DATA_VALUE, end)
                            });
                        }
                        if !element.value.is_empty() {
                            nest(w, NFTA_SET_ELEM_DATA, |w| {
                                w.attribute(NFTA_DATA_VALUE, &element.value)
                            });
                        }
                    });
                }
            });
        });
    }

    /// Asks for all elements of a set.
    pub fn ask_elements(&mut self, family: Family, set: &str) {
        const NFTA_SET_ELEM_LIST_SET: u16 = 2;
        self.message(family, libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP, |w| {
            w.string(NFTA_SET_ELEM_LIST_SET, set)
        });
    }
}

/// The type of a message (`NFT_MSG_*`) of the subsystem.
pub(super) const fn kind(message: i32) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}

/// nft's number of a type of several fields: six bits each.
fn type_number(fields: &[Type]) -> u32 {
    fields
        .iter()
        .fold(0, |number, field| number << 6 | field.number())
}

fn length(fields: &[Type]) -> u32 {
    match fields {
        [one] => one.len() as u32,
        several => several.iter().map(|field| field.padded() as u32).sum(),
    }
}

/// An attribute of attributes. nf_tables wants the flag (`NLA_F_NESTED`).
pub(super) fn nest(w: &mut Writer, kind: u16, write: impl FnOnce(&mut Writer)) {
    let open = w.open(kind | libc::NLA_F_NESTED as u16);
    write(w);
    w.close(open);
}
