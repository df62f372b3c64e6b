/** Sends each tensor back: over the socket that its argument names, or else over the channel of its parent. */
import { createServer } from 'node:net';
import { FRAME, frameReader, packTensors, unpackTensors, writeSoon } from '../../src/inference/frames.ts';

const [, , path] = process.argv;
if (path === undefined) {
  process.on('message', (message: unknown) => void process.send?.(message));
  process.send?.('ready');
} else {
  const server = createServer((socket) => {
    const read = frameReader(({ call, head, data }) => {
      const { head: tensors, chunks } = packTensors(unpackTensors((head as { tensors: unknown }).tensors, data));
      writeSoon(socket, FRAME.result, call, { tensors }, chunks);
    });
    socket.on('data', read);
  });
  server.listen(path, () => process.send?.('ready'));
}
