//! Reads a pickle without running it: builds what it describes as plain nodes and lists what it would import.
//!
//! A pickle is a program for a stack machine (`pickletools` of CPython describes every opcode). Here no opcode calls
//! anything: an import is a name, a call is a node with a function and its arguments. Nodes live in one list and refer
//! to one another by number, so that deep or cyclic objects cost no stack.

use std::collections::BTreeMap;

use crate::checkpoint::collect::shown;
use crate::checkpoint::turn;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MANY_PICKLE_NODES, MAX_PICKLE_BYTES, MAX_PICKLE_IMPORTS, MAX_PICKLE_NODES};

/// Where a node stands in [`Pickle::nodes`].
pub(crate) type Id = usize;

/// One value of a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// `None`, or a value that no tensor needs (a float, a large number, raw bytes).
    Nothing,
    /// A number or a truth value.
    Number(i64),
    /// A text.
    Text(String),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dictionary, in order, with whatever comes twice.
    Dict(Vec<(Id, Id)>),
    /// An import: index into [`Pickle::imports`].
    Import(usize),
    /// What a call would return: function and arguments.
    Call(Id, Id),
    /// What the loader looks up by this id: a storage.
    Persistent(Id),
}

/// One name that loading would import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Import {
    /// The module.
    pub module: String,
    /// The name in it.
    pub name: String,
    /// Where the first opcode that asks for it stands in the pickle.
    pub position: usize,
    /// How many opcodes ask for it.
    pub times: u64,
}

/// What a pickle describes.
#[derive(Debug, Default)]
pub(crate) struct Pickle {
    /// All values.
    pub nodes: Vec<Node>,
    /// All imports in order of their first appearance, at most [`MAX_PICKLE_IMPORTS`].
    pub imports: Vec<Import>,
    /// The value that loading returns.
    pub root: Option<Id>,
    /// Bytes up to and with the final opcode.
    pub length: usize,
    /// Why reading ended before the final opcode.
    pub broken: Option<String>,
    /// Whether that was for lack of bytes.
    pub cut_short: bool,
}

impl Pickle {
    /// Reads the pickle at the beginning of `bytes`. What was read before an error is kept: a loader would have run it.
    pub fn read(bytes: &[u8]) -> Self {
        let mut machine = Machine {
            bytes,
            at: 0,
            pickle: Self::default(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            imported: BTreeMap::new(),
            copied: 0,
        };
        if let Err(error) = machine.run() {
            machine.pickle.broken = Some(format!("{} (at byte {} of the pickle)", error.doing, machine.at));
        }
        machine.pickle.length = machine.at;
        machine.pickle
    }

    /// The node of that number.
    pub fn node(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::Nothing)
    }

    /// The import a node names.
    pub fn import(&self, id: Id) -> Option<&Import> {
        match self.node(id) {
            Node::Import(index) => self.imports.get(*index),
            _ => None,
        }
    }

    /// A tuple's items.
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A node's text.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A node's number.
    pub fn number(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Number(number) => Some(*number),
            _ => None,
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    pickle: Pickle,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
    /// Module, name in it, and the node of that import.
    imported: BTreeMap<String, BTreeMap<String, Id>>,
    copied: usize,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, what)
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| {
            self.pickle.cut_short = true;
            bad("it ends inside an opcode")
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn little(&mut self, width: u64) -> Result<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The bytes up to the next line's end.
    fn line_bytes(&mut self) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| {
            self.pickle.cut_short = true;
            bad("a line has no end")
        })?;
        self.at += end + 1;
        Ok(&rest[..end])
    }

    fn line(&mut self) -> Result<&'a str> {
        let line = std::str::from_utf8(self.line_bytes()?).map_err(|_| bad("a line is not text"))?;
        Ok(line.trim_end_matches('\r'))
    }

    fn text(&mut self, width: u64) -> Result<Node> {
        let length = self.little(width)?;
        // Python 2 strings need not be UTF-8.
        Ok(Node::Text(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    fn skip(&mut self, width: u64) -> Result<Node> {
        let length = self.little(width)?;
        self.take(length)?;
        Ok(Node::Nothing)
    }

    fn push(&mut self, node: Node) -> Result<()> {
        if self.pickle.nodes.len() >= MAX_PICKLE_NODES {
            return Err(Error::new(ErrorKind::TooLarge, format!("it describes more than {MAX_PICKLE_NODES} values")));
        }
        let id = self.pickle.nodes.len();
        if id == MANY_PICKLE_NODES {
            turn::take();
        }
        self.pickle.nodes.push(node);
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        if self.stack.len() >= MAX_PICKLE_NODES {
            return Err(Error::new(ErrorKind::TooLarge, "its stack is too deep"));
        }
        self.stack.push(id);
        Ok(())
    }

    /// Copies of a list cost memory that the pickle's own length does not bound.
    fn copy_allowed(&mut self, items: usize) -> Result<()> {
        self.copied = self.copied.saturating_add(items);
        if self.copied > MAX_PICKLE_NODES {
            return Err(Error::new(ErrorKind::TooLarge, "it copies its lists over and over"));
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        if self.marks.last().is_some_and(|mark| *mark >= self.stack.len()) {
            return Err(bad("it takes a value from below a mark"));
        }
        self.stack.pop().ok_or_else(|| bad("it takes a value from an empty stack"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| bad("it looks for a mark that is not there"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| bad("it changes the top of an empty stack"))
    }

    /// Names a text may have in memory many times over are kept short: one text can be a name of any number of imports.
    fn import(&mut self, module: &str, name: &str, position: usize) -> Result<()> {
        let (module, name) = (shown(module), shown(name));
        if let Some(id) = self.imported.get(&module).and_then(|names| names.get(&name)).copied() {
            if let Some(Node::Import(index)) = self.pickle.nodes.get(id)
                && let Some(import) = self.pickle.imports.get_mut(*index)
            {
                import.times = import.times.saturating_add(1);
            }
            return self.push_id(id);
        }
        if self.pickle.imports.len() >= MAX_PICKLE_IMPORTS {
            let what = format!("it imports more than {MAX_PICKLE_IMPORTS} names");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        self.imported.entry(module.clone()).or_default().insert(name.clone(), self.pickle.nodes.len());
        self.pickle.imports.push(Import { module, name, position, times: 1 });
        self.push(Node::Import(self.pickle.imports.len() - 1))
    }

    fn call(&mut self, function: Id, arguments: Id) -> Result<()> {
        // An ordered dictionary is a dictionary, made empty or from a list of pairs.
        let ordered =
            self.pickle.import(function).is_some_and(|i| i.module == "collections" && i.name == "OrderedDict");
        let node = if ordered {
            let first = self.pickle.tuple(arguments).and_then(|items| items.first().copied());
            let length = match first.map(|id| self.pickle.node(id)) {
                Some(Node::List(items)) => items.len(),
                Some(Node::Dict(items)) => items.len(),
                _ => 0,
            };
            self.copy_allowed(length)?;
            let pairs = match first.map(|id| self.pickle.node(id)) {
                Some(Node::List(items)) => items.clone(),
                Some(Node::Dict(items)) => {
                    let items = items.clone();
                    return self.push(Node::Dict(items));
                }
                _ => Vec::new(),
            };
            let pair = |id: &Id| match self.pickle.node(*id) {
                Node::Tuple(pair) | Node::List(pair) => pair.first().copied().zip(pair.get(1).copied()),
                _ => None,
            };
            Node::Dict(pairs.iter().filter_map(pair).collect())
        } else {
            Node::Call(function, arguments)
        };
        self.push(node)
    }

    fn memorise(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        if self.memo.len() >= MAX_PICKLE_NODES {
            return Err(Error::new(ErrorKind::TooLarge, "it keeps too many values"));
        }
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let id = self.memo.get(&key).copied().ok_or_else(|| bad(format!("it recalls {key}, which it never kept")))?;
        self.push_id(id)
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        // Other objects take items by their own code; they hold no tensor that is read here.
        if let Some(Node::List(list)) = self.pickle.nodes.get_mut(top) {
            list.extend(items);
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let top = self.top()?;
        if let Some(Node::Dict(pairs)) = self.pickle.nodes.get_mut(top) {
            pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    fn number_line(&mut self) -> Result<Node> {
        let line = self.line()?.trim_end_matches('L');
        Ok(line.trim().parse().map_or(Node::Nothing, Node::Number))
    }

    fn memo_line(&mut self) -> Result<u64> {
        // Python takes underscores between digits.
        let digits = self.line()?.trim().replace('_', "");
        digits.parse().map_err(|_| bad("a memo key is not a number"))
    }

    fn long(&mut self, width: u64) -> Result<Node> {
        let length = self.little(width)?;
        let digits = self.take(length)?;
        if digits.len() > 8 {
            return Ok(Node::Nothing);
        }
        let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut whole = if negative { [0xff; 8] } else { [0; 8] };
        whole[..digits.len()].copy_from_slice(digits);
        Ok(Node::Number(i64::from_le_bytes(whole)))
    }

    fn run(&mut self) -> Result<()> {
        loop {
            if self.at as u64 > MAX_PICKLE_BYTES {
                return Err(Error::new(ErrorKind::TooLarge, format!("it has more than {MAX_PICKLE_BYTES} bytes")));
            }
            let position = self.at;
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => {
                    self.pickle.root = Some(self.pop()?);
                    return Ok(());
                }
                0x80 => {
                    let version = self.little(1)?;
                    if version > 5 {
                        return Err(bad(format!("it is of protocol {version}; 0 to 5 are known")));
                    }
                }
                0x95 => {
                    self.take(8)?;
                }
                b'(' => {
                    if self.marks.len() >= MAX_PICKLE_NODES {
                        return Err(Error::new(ErrorKind::TooLarge, "it sets too many marks"));
                    }
                    self.marks.push(self.stack.len());
                }
                b'0' => {
                    // POP takes a mark where one is on top.
                    if self.marks.last() == Some(&self.stack.len()) {
                        self.marks.pop();
                    } else {
                        self.pop()?;
                    }
                }
                b'1' => {
                    self.pop_to_mark()?;
                }
                b'2' => {
                    let top = self.top()?;
                    self.push_id(top)?;
                }
                b'N' => self.push(Node::Nothing)?,
                0x88 => self.push(Node::Number(1))?,
                0x89 => self.push(Node::Number(0))?,
                b'I' | b'L' => {
                    let node = self.number_line()?;
                    self.push(node)?;
                }
                b'F' => {
                    self.line()?;
                    self.push(Node::Nothing)?;
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Nothing)?;
                }
                b'J' => {
                    let number = self.little(4)? as u32 as i32;
                    self.push(Node::Number(number.into()))?;
                }
                b'K' | b'M' => {
                    let number = self.little(if opcode == b'K' { 1 } else { 2 })?;
                    self.push(Node::Number(number as i64))?;
                }
                0x8a | 0x8b => {
                    let node = self.long(if opcode == 0x8a { 1 } else { 4 })?;
                    self.push(node)?;
                }
                b'S' => {
                    let line = self.line()?.trim_matches(['\'', '"']);
                    self.push(Node::Text(line.to_owned()))?;
                }
                b'V' => {
                    // Bytes beyond ASCII stand for themselves here, so that any line is one.
                    let line = String::from_utf8_lossy(self.line_bytes()?).into_owned();
                    self.push(Node::Text(line))?;
                }
                b'T' | b'U' | b'X' | 0x8c | 0x8d => {
                    let node = self.text(match opcode {
                        b'U' | 0x8c => 1,
                        0x8d => 8,
                        _ => 4,
                    })?;
                    self.push(node)?;
                }
                b'B' | b'C' | 0x8e | 0x96 => {
                    let node = self.skip(match opcode {
                        b'B' => 4,
                        b'C' => 1,
                        _ => 8,
                    })?;
                    self.push(node)?;
                }
                0x97 => self.push(Node::Nothing)?,
                0x98 => {}
                b')' => self.push(Node::Tuple(Vec::new()))?,
                b']' | 0x8f => self.push(Node::List(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b't' | b'l' | 0x91 => {
                    let items = self.pop_to_mark()?;
                    self.push(if opcode == b't' { Node::Tuple(items) } else { Node::List(items) })?;
                }
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Dict(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()))?;
                }
                0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0x85..=opcode {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Node::Tuple(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_to_mark()?;
                    self.extend(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                b'p' | b'q' | b'r' | 0x94 => {
                    let key = match opcode {
                        b'p' => self.memo_line()?,
                        0x94 => self.memo.len() as u64,
                        _ => self.little(if opcode == b'q' { 1 } else { 4 })?,
                    };
                    self.memorise(key)?;
                }
                b'g' | b'h' | b'j' => {
                    let key = match opcode {
                        b'g' => self.memo_line()?,
                        _ => self.little(if opcode == b'h' { 1 } else { 4 })?,
                    };
                    self.recall(key)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.import(module, name, position)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let spelled = |id| shown(self.pickle.text(id).unwrap_or("(computed)"));
                    let (module, name) = (spelled(module), spelled(name));
                    self.import(&module, &name, position)?;
                }
                0x82..=0x84 => {
                    let code = self.little(1 << (opcode - 0x82))?;
                    self.import("(extension)", &code.to_string(), position)?;
                }
                b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let arguments = self.pop_to_mark()?;
                    self.import(module, name, position)?;
                    self.push(Node::Tuple(arguments))?;
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.call(function, arguments)?;
                }
                b'o' => {
                    let mut items = self.pop_to_mark()?;
                    if items.is_empty() {
                        return Err(bad("an object without a class"));
                    }
                    let function = items.remove(0);
                    self.push(Node::Tuple(items))?;
                    let arguments = self.pop()?;
                    self.call(function, arguments)?;
                }
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.call(function, arguments)?;
                }
                0x92 => {
                    let (_, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                    self.call(function, arguments)?;
                }
                b'b' => {
                    // The state that the object would be given: hooks and attributes, never the tensor's numbers.
                    self.pop()?;
                    self.top()?;
                }
                b'P' => {
                    let line = self.line()?.to_owned();
                    self.push(Node::Text(line))?;
                    let id = self.pop()?;
                    self.push(Node::Persistent(id))?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id))?;
                }
                other => return Err(bad(format!("{other:#04x} is no opcode"))),
            }
        }
    }
}
