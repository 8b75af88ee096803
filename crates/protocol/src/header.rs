//! Request and response headers, and whole frames: four length bytes, header, body.

use crate::api::ApiKey;
use crate::codec::{Decode, Message, Request};
use crate::messages::{RequestHeader, ResponseHeader};
use crate::wire::{DecodeError, EncodeError, Reader, Splice, Writer};

/// The largest frame that the length field can announce.
const FRAME_LEN_MAX: usize = i32::MAX as usize;

/// Reads the header in the version that its own api key and version call for.
pub fn decode_request_header<'a>(r: &mut Reader<'a>) -> Result<RequestHeader<'a>, DecodeError> {
    let mut peek = r.clone();
    let (key, version) = (peek.i16()?, peek.i16()?);
    let header_version = match ApiKey::try_from(key) {
        Ok(key) => key.request_header_version(version),
        Err(key) => return Err(DecodeError::UnknownApiKey(key)),
    };
    RequestHeader::decode(r, header_version)
}

/// Reads the header of an answer and returns its correlation id.
pub fn decode_response_header(r: &mut Reader<'_>, key: ApiKey, version: i16) -> Result<i32, DecodeError> {
    Ok(ResponseHeader::decode(r, key.response_header_version(version))?.correlation_id)
}

/// Reads an answer, header and body, and nothing behind it.
pub fn decode_response<'a, R: Request>(frame: &'a [u8], version: i16) -> Result<(i32, R::Response<'a>), DecodeError> {
    let mut r = Reader::new(frame);
    let correlation_id = decode_response_header(&mut r, R::KEY, version)?;
    let response = R::Response::decode(&mut r, version)?;
    r.finish()?;
    Ok((correlation_id, response))
}

/// The whole frame, length included.
pub fn encode_request(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    message: &(impl Message + ?Sized),
) -> Result<Vec<u8>, EncodeError> {
    let header = RequestHeader {
        request_api_key: key as i16,
        request_api_version: version,
        correlation_id,
        client_id: client_id.map(Into::into),
        ..Default::default()
    };
    let mut writer = begin();
    header.encode(&mut writer, key.request_header_version(version));
    message.encode(&mut writer, version);
    let (bytes, splices) = end(writer)?;
    assert!(splices.is_empty(), "a request holds its records itself");
    Ok(bytes)
}

/// The whole frame, and where in it bytes belong that it does not hold; its length counts them.
pub fn encode_response(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    message: &(impl Message + ?Sized),
) -> Result<(Vec<u8>, Vec<Splice>), EncodeError> {
    let mut writer = begin();
    let header = ResponseHeader { correlation_id, ..Default::default() };
    header.encode(&mut writer, key.response_header_version(version));
    message.encode(&mut writer, version);
    end(writer)
}

fn begin() -> Writer {
    let mut writer = Writer::reuse(Vec::with_capacity(128));
    writer.i32(0);
    writer
}

fn end(mut writer: Writer) -> Result<(Vec<u8>, Vec<Splice>), EncodeError> {
    let len = writer.len() - 4;
    if len > FRAME_LEN_MAX {
        return Err(EncodeError::TooLong { what: "frame", len });
    }
    writer.patch_i32(0, len as i32);
    writer.finish()
}
