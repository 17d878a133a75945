//! The directory of a zip archive, read to find where stored entries lie and to report what is odd about it.
//!
//! Format: PKWARE APPNOTE 6.3, with the 64-bit extensions. PyTorch writes entries without compression, one per storage.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::ops::Range;

use crate::checkpoint::anomaly;
use crate::checkpoint::collect::{Anomalies, shown};
use crate::checkpoint::shards::stays_inside;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MAX_PICKLE_BYTES, MAX_ZIP_DIRECTORY_BYTES, MAX_ZIP_ENTRIES};
use crate::source::ByteSource;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name.
    pub name: String,
    /// Compression method; 0 is none.
    pub method: u16,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Where its local header begins.
    pub header: u64,
    /// Its bytes in the file, as they are stored.
    pub range: Range<u64>,
    /// Bytes after decompression, as the directory says.
    pub size: u64,
}

impl Entry {
    /// Where the entry's bytes lie as they are; the reason when they do not.
    pub fn stored(&self) -> Result<Range<u64>, String> {
        if self.encrypted {
            Err(format!("the zip entry {} is encrypted", shown(&self.name)))
        } else if self.method != 0 {
            Err(format!("the zip entry {} is compressed (method {})", shown(&self.name), self.method))
        } else {
            Ok(self.range.clone())
        }
    }

    /// The entry's bytes, decompressed up to the cap of a pickle.
    pub fn small_bytes(&self, source: &dyn ByteSource) -> Result<Vec<u8>> {
        let doing = || format!("reading {} in {}", shown(&self.name), source.name());
        let too_large = || Error::new(ErrorKind::TooLarge, format!("{}: more than {MAX_PICKLE_BYTES} bytes", doing()));
        if self.encrypted || self.range.end - self.range.start > MAX_PICKLE_BYTES {
            return Err(if self.encrypted {
                Error::new(ErrorKind::Unsupported, format!("{}: it is encrypted", doing()))
            } else {
                too_large()
            });
        }
        let stored = source.read(self.range.clone())?;
        match self.method {
            0 => Ok(stored.into_owned()),
            8 => {
                let mut bytes = Vec::new();
                // One byte more than allowed tells a bomb from a full one.
                let mut inflate = flate2::read::DeflateDecoder::new(stored.as_ref()).take(MAX_PICKLE_BYTES + 1);
                inflate.read_to_end(&mut bytes).map_err(|e| Error::because(ErrorKind::Malformed, doing(), e))?;
                if bytes.len() as u64 > MAX_PICKLE_BYTES { Err(too_large()) } else { Ok(bytes) }
            }
            method => Err(Error::new(ErrorKind::Unsupported, format!("{}: compression method {method}", doing()))),
        }
    }
}

fn little(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Reads the directory and finds where every entry lies.
pub(crate) fn read(source: &dyn ByteSource, anomalies: &mut Anomalies) -> Result<Vec<Entry>> {
    let (mut entries, start) = directory(source, anomalies)?;
    locate(source, &mut entries, anomalies)?;
    check(source.name(), &entries, start, anomalies);
    Ok(entries)
}

/// The same for the entries of some names alone, without a look at the others.
pub(crate) fn read_some(
    source: &dyn ByteSource,
    anomalies: &mut Anomalies,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Entry>> {
    let mut entries = directory(source, anomalies)?.0;
    entries.retain(|entry| wanted(&entry.name));
    locate(source, &mut entries, anomalies)?;
    Ok(entries)
}

/// The entries as the directory lists them, each range beginning at the local header, and where the directory begins.
fn directory(source: &dyn ByteSource, anomalies: &mut Anomalies) -> Result<(Vec<Entry>, u64)> {
    let name = source.name();
    let bad = |what: &str| Error::new(ErrorKind::Malformed, format!("reading the zip directory of {name}: {what}"));
    let size = source.len();
    // The end record has 22 bytes and a comment of at most 65,535; the 64-bit locator before it has 20.
    let tail_start = size.saturating_sub(22 + 0xffff + 20);
    let tail = source.read(tail_start..size)?;
    let ends: Vec<usize> =
        (0..tail.len().saturating_sub(21)).rev().filter(|at| tail[*at..].starts_with(b"PK\x05\x06")).take(2).collect();
    let at = *ends.first().ok_or_else(|| bad("there is none (the file may be cut short)"))?;
    let field = |at: usize, width| little(&tail, at, width).ok_or_else(|| bad("its end record is cut short"));
    let comment = field(at + 20, 2)?;
    let after = (tail.len() - at - 22) as u64;
    if comment != after {
        anomalies.file(anomaly::TRAILING_BYTES, name, format!("{after} bytes after the zip directory's end record"));
    }
    if ends.len() > 1 {
        anomalies.file(anomaly::ODD_ZIP, name, "it has more than one end record: readers may take different ones");
    }
    let (mut count, mut length, mut start) = (field(at + 10, 2)?, field(at + 12, 4)?, field(at + 16, 4)?);
    let mut directory_end = tail_start + at as u64;
    if let Some(locator) = at.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07")) {
        let record = field(locator + 8, 8)?;
        let end =
            record.checked_add(56).filter(|end| *end <= size).ok_or_else(|| bad("its 64-bit record is outside"))?;
        let bytes = source.read(record..end)?;
        if !bytes.starts_with(b"PK\x06\x06") {
            return Err(bad("its 64-bit record is not where it should be"));
        }
        let wide = |at| little(&bytes, at, 8).ok_or_else(|| bad("its 64-bit record is cut short"));
        (count, length, start) = (wide(32)?, wide(40)?, wide(48)?);
        directory_end = record;
    }
    if count > MAX_ZIP_ENTRIES || length > MAX_ZIP_DIRECTORY_BYTES {
        let what =
            format!("{count} entries in {length} bytes: more than {MAX_ZIP_ENTRIES} or {MAX_ZIP_DIRECTORY_BYTES}");
        return Err(Error::new(ErrorKind::TooLarge, format!("reading the zip directory of {name}: {what}")));
    }
    let end = start.checked_add(length).filter(|end| *end <= size).ok_or_else(|| bad("it lies outside the file"))?;
    if end != directory_end {
        anomalies.file(anomaly::ODD_ZIP, name, "the directory does not end where its end record begins");
    }
    let directory = source.read(start..end)?;
    let mut entries = Vec::new();
    let mut at = 0usize;
    for _ in 0..count {
        let (entry, next) = directory_entry(&directory, at).ok_or_else(|| bad("an entry is cut short"))?;
        entries.push(entry);
        at = next;
    }
    if at != directory.len() {
        anomalies.file(anomaly::ODD_ZIP, name, format!("{} bytes of the directory are no entry", directory.len() - at));
    }
    Ok((entries, start))
}

/// One entry of the directory with its local header's position as `range.start`, and where the next begins.
fn directory_entry(bytes: &[u8], at: usize) -> Option<(Entry, usize)> {
    if !bytes.get(at..)?.starts_with(b"PK\x01\x02") {
        return None;
    }
    let field = |offset: usize, width| little(bytes, at.checked_add(offset)?, width);
    let (name_length, extra_length) = (field(28, 2)? as usize, field(30, 2)? as usize);
    let comment_length = field(32, 2)? as usize;
    let name_start = at.checked_add(46)?;
    let extra_start = name_start.checked_add(name_length)?;
    let next = extra_start.checked_add(extra_length)?.checked_add(comment_length)?;
    let name = String::from_utf8_lossy(bytes.get(name_start..extra_start)?).into_owned();
    let extra = bytes.get(extra_start..extra_start.checked_add(extra_length)?)?;
    bytes.get(extra_start..next)?;
    let (mut packed, mut size, mut header) = (field(20, 4)?, field(24, 4)?, field(42, 4)?);
    // The 64-bit field holds only those numbers that did not fit, in this order.
    let mut part = 0usize;
    while let (Some(id), Some(length)) = (little(extra, part, 2), little(extra, part + 2, 2)) {
        if id == 1 {
            let mut from = part + 4;
            for number in [&mut size, &mut packed, &mut header] {
                if *number == 0xffff_ffff {
                    *number = little(extra, from, 8)?;
                    from += 8;
                }
            }
        }
        part = part.checked_add(4)?.checked_add(length as usize)?;
    }
    let range = header..header.checked_add(packed)?;
    let entry = Entry { name, method: field(10, 2)? as u16, encrypted: field(8, 2)? & 1 == 1, header, range, size };
    Some((entry, next))
}

/// Moves every range from its local header to its data.
fn locate(source: &dyn ByteSource, entries: &mut [Entry], anomalies: &mut Anomalies) -> Result<()> {
    let file = source.name();
    let size = source.len();
    let headers: Vec<Range<u64>> = (entries.iter().map(|entry| entry.range.start))
        .map(|start| start..start.saturating_add(30).min(size).max(start))
        .collect();
    source.prefetch(&headers);
    for (entry, header) in entries.iter_mut().zip(headers) {
        let bad = |what: &str| {
            let doing = format!("reading the zip entry {} of {file}: {what}", shown(&entry.name));
            Error::new(ErrorKind::Malformed, doing)
        };
        if header.end > size || header.end - header.start < 30 {
            return Err(bad("it lies outside the file"));
        }
        let bytes = source.read(header.clone())?;
        let lengths = little(&bytes, 26, 2).zip(little(&bytes, 28, 2)).filter(|_| bytes.starts_with(b"PK\x03\x04"));
        let (name_length, extra_length) = lengths.ok_or_else(|| bad("its local header is not where it should be"))?;
        let packed = entry.range.end - entry.range.start;
        let start = header.end + name_length + extra_length;
        let end =
            start.checked_add(packed).filter(|end| *end <= size).ok_or_else(|| bad("it lies outside the file"))?;
        if name_length != entry.name.len() as u64 || little(&bytes, 8, 2) != Some(u64::from(entry.method)) {
            anomalies.file(anomaly::ODD_ZIP, file, format!("{} differs from its local header", shown(&entry.name)));
        }
        entry.range = start..end;
    }
    Ok(())
}

/// Overlaps, double and escaping names, compression.
fn check(file: &str, entries: &[Entry], directory_start: u64, anomalies: &mut Anomalies) {
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = shown(&entry.name);
        if !names.insert(&entry.name) {
            anomalies.file(anomaly::DUPLICATE_ENTRY, file, format!("{name} comes twice"));
        }
        if !stays_inside(entry.name.trim_end_matches('/')) {
            anomalies.file(anomaly::PATH_ESCAPE, file, format!("an entry is named {name:?}; nothing is extracted"));
        }
        let packed = entry.range.end - entry.range.start;
        if entry.encrypted {
            anomalies.file(anomaly::ENCRYPTED_ENTRY, file, format!("{name} is encrypted"));
        } else if entry.method != 0 {
            let what = format!("{name} is compressed, {packed} bytes for {}: PyTorch writes none such", entry.size);
            anomalies.file(anomaly::COMPRESSED_ENTRY, file, what);
        } else if packed != entry.size {
            anomalies.file(anomaly::WRONG_SIZE, file, format!("{name} has {packed} bytes and claims {}", entry.size));
        }
    }
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| (entry.header, entry.range.end));
    let mut end = 0;
    for entry in order {
        if entry.header < end || entry.range.end > directory_start {
            anomalies.file(anomaly::OVERLAP, file, format!("the zip entry {} shares bytes", shown(&entry.name)));
        }
        end = end.max(entry.range.end);
    }
}
