//! nf_tables objects as netlink messages. Names and numbers are those of `linux/netfilter/nf_tables.h`;
//! integers are big-endian.

use hawser::netlink::Writer;

/// A family of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `NFPROTO_INET`: IPv4 and IPv6.
    Inet = 1,
}

/// One expression of a rule; values go through register 1.
#[derive(Debug, Clone, Copy)]
pub enum Expression {
    /// Loads the group of the link that the packet came in by.
    InputGroup,
    /// Loads the group of the link that it leaves by.
    OutputGroup,
    /// Goes on when the loaded value is this one.
    Is(u32),
    /// Goes on when it is not.
    IsNot(u32),
    /// Rewrites the source to the address of the link that the packet leaves by.
    Masquerade,
}

/// A rule: its chain and its expressions in order.
pub struct Rule<'a> {
    /// The chain that it is appended to.
    pub chain: &'a str,
    /// What it says.
    pub expressions: &'a [Expression],
}

/// A chain that hangs on a hook of the kernel.
pub struct Chain<'a> {
    /// Its name.
    pub name: &'a str,
    /// `filter` or `nat`.
    pub kind: &'a str,
    /// `NF_INET_*`.
    pub hook: u32,
    /// Where among others at this hook.
    pub priority: i32,
}

const NFT_REG_1: u32 = 1;
const NFT_META_IIFGROUP: u32 = 21;
const NFT_META_OIFGROUP: u32 = 22;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

/// Messages for one table, as one batch or as questions.
pub struct Batch<'w, 'b> {
    writer: &'w mut Writer<'b>,
    sequence: u32,
    family: Family,
    table: &'w str,
}

impl<'w, 'b> Batch<'w, 'b> {
    /// Messages about `table`, numbered from `sequence` on.
    pub fn new(writer: &'w mut Writer<'b>, sequence: u32, family: Family, table: &'w str) -> Self {
        Batch {
            writer,
            sequence,
            family,
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

    /// Ends the transaction. Gives the number of the last message before it, whose acknowledgement ends the exchange
    /// (kernels before 6.10 do not acknowledge this one).
    pub fn commit(&mut self) -> u32 {
        let last = self.last();
        self.mark(libc::NFNL_MSG_BATCH_END as u16);
        last
    }

    fn mark(&mut self, kind: u16) {
        // struct nfgenmsg: the subsystem that the batch is for, in network byte order (linux/netfilter/nfnetlink.h).
        let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
        self.writer
            .begin(kind, 0, self.sequence, &[0, 0, high, low]);
        self.writer.end();
        self.sequence += 1;
    }

    fn message(&mut self, kind: i32, flags: i32, write: impl FnOnce(&mut Writer)) {
        let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
        self.writer.begin(
            kind,
            flags as u16,
            self.sequence,
            &[self.family as u8, 0, 0, 0],
        );
        // Every message of this subsystem names its table in attribute 1.
        self.writer.string(1, self.table);
        write(self.writer);
        self.writer.end();
        self.sequence += 1;
    }

    /// Adds the table, with a comment that nft shows. `flags`: `NLM_F_EXCL` to be the one who makes it.
    pub fn add_table(&mut self, comment: &str, flags: i32) {
        const NFTA_TABLE_USERDATA: u16 = 6;
        self.message(libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | flags, |w| {
            // nft's own notation: type 0 is the comment, then its length with the NUL, then itself.
            let mut data = vec![0, comment.len() as u8 + 1];
            data.extend(comment.bytes());
            data.push(0);
            w.attribute(NFTA_TABLE_USERDATA, &data);
        });
    }

    /// Deletes the table and all that is in it.
    pub fn delete_table(&mut self, flags: i32) {
        self.message(libc::NFT_MSG_DELTABLE, flags, |_| {});
    }

    /// Asks for the table.
    pub fn ask_table(&mut self) {
        self.message(libc::NFT_MSG_GETTABLE, 0, |_| {});
    }

    /// Adds a chain.
    pub fn add_chain(&mut self, chain: &Chain) {
        const NFTA_CHAIN_NAME: u16 = 3;
        const NFTA_CHAIN_HOOK: u16 = 4;
        const NFTA_CHAIN_TYPE: u16 = 7;
        const NFTA_HOOK_HOOKNUM: u16 = 1;
        const NFTA_HOOK_PRIORITY: u16 = 2;
        self.message(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, |w| {
            w.string(NFTA_CHAIN_NAME, chain.name);
            nest(w, NFTA_CHAIN_HOOK, |w| {
                w.number(NFTA_HOOK_HOOKNUM, chain.hook.to_be());
                w.attribute(NFTA_HOOK_PRIORITY, &chain.priority.to_be_bytes());
            });
            w.string(NFTA_CHAIN_TYPE, chain.kind);
        });
    }

    /// Asks for a chain.
    pub fn ask_chain(&mut self, name: &str) {
        const NFTA_CHAIN_NAME: u16 = 3;
        self.message(libc::NFT_MSG_GETCHAIN, 0, |w| {
            w.string(NFTA_CHAIN_NAME, name)
        });
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, rule: &Rule, flags: i32) {
        const NFTA_RULE_CHAIN: u16 = 2;
        const NFTA_RULE_EXPRESSIONS: u16 = 4;
        self.message(
            libc::NFT_MSG_NEWRULE,
            libc::NLM_F_CREATE | libc::NLM_F_APPEND | flags,
            |w| {
                w.string(NFTA_RULE_CHAIN, rule.chain);
                nest(w, NFTA_RULE_EXPRESSIONS, |w| {
                    for expression in rule.expressions {
                        nest(w, NFTA_LIST_ELEM, |w| write_expression(w, *expression));
                    }
                });
            },
        );
    }
}

/// An attribute of attributes. nf_tables wants the flag (`NLA_F_NESTED`).
fn nest(w: &mut Writer, kind: u16, write: impl FnOnce(&mut Writer)) {
    let open = w.open(kind | libc::NLA_F_NESTED as u16);
    write(w);
    w.close(open);
}

fn write_expression(w: &mut Writer, expression: Expression) {
    let (name, write): (&str, &dyn Fn(&mut Writer)) = match expression {
        Expression::InputGroup => ("meta", &|w| write_meta(w, NFT_META_IIFGROUP)),
        Expression::OutputGroup => ("meta", &|w| write_meta(w, NFT_META_OIFGROUP)),
        Expression::Is(value) => ("cmp", &move |w| write_compare(w, NFT_CMP_EQ, value)),
        Expression::IsNot(value) => ("cmp", &move |w| write_compare(w, NFT_CMP_NEQ, value)),
        Expression::Masquerade => ("masq", &|_| {}),
    };
    w.string(NFTA_EXPR_NAME, name);
    nest(w, NFTA_EXPR_DATA, write);
}

fn write_meta(w: &mut Writer, key: u32) {
    const NFTA_META_DREG: u16 = 1;
    const NFTA_META_KEY: u16 = 2;
    w.number(NFTA_META_KEY, key.to_be());
    w.number(NFTA_META_DREG, NFT_REG_1.to_be());
}

/// Compares with a number in host byte order, as the kernel has groups of links.
fn write_compare(w: &mut Writer, operator: u32, value: u32) {
    const NFTA_CMP_SREG: u16 = 1;
    const NFTA_CMP_OP: u16 = 2;
    const NFTA_CMP_DATA: u16 = 3;
    w.number(NFTA_CMP_SREG, NFT_REG_1.to_be());
    w.number(NFTA_CMP_OP, operator.to_be());
    nest(w, NFTA_CMP_DATA, |w| {
        w.attribute(NFTA_DATA_VALUE, &value.to_ne_bytes())
    });
}
