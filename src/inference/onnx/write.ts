import { type Field, type Message, MODEL, type Scalar } from './fields.ts';
import { WIRE, WireWriter } from './protobuf.ts';
import type { OnnxModel } from './schema.ts';

/** The bytes of an ONNX file (protobuf `ModelProto`), fields in the order of the schema: the same model gives the same bytes. */
export function encodeModel(model: OnnxModel): Uint8Array {
  return write(MODEL, model).finish();
}

function write(message: Message, value: object): WireWriter {
  const writer = new WireWriter();
  for (const field of message.fields) {
    const content: unknown = Reflect.get(value, field.key);
    if (field.many) for (const item of content as readonly unknown[]) writeField(writer, field, item);
    else if (content !== undefined) writeField(writer, field, content);
  }
  return writer;
}

function writeField(writer: WireWriter, { id, kind }: Field, value: unknown): void {
  if (typeof kind === 'string') {
    writer.tag(id, wireOf(kind));
    writeScalar(writer, kind, value);
  } else {
    writer.tag(id, WIRE.bytes);
    writer.message(write(kind(), value as object));
  }
}

/** Packed elements are written packed. */
function wireOf(kind: Scalar): number {
  if (kind === 'int32' || kind === 'int64') return WIRE.varint;
  return kind === 'float' ? WIRE.fixed32 : WIRE.bytes;
}

function writeScalar(writer: WireWriter, kind: Scalar, value: unknown): void {
  if (kind === 'int32' || kind === 'int64') writer.varint(BigInt(value as number | bigint));
  else if (kind === 'float') writer.float32(value as number);
  else if (kind === 'string') writer.string(value as string);
  else writer.bytes(value as Uint8Array);
}
