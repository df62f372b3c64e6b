import { loopModel } from '../inference/tiny-models.ts';
import type { Client } from './client.ts';
import { signUp } from './people.ts';

type Node = { id: string };

/** `maker/loop`, whose input says how many turns of about a microsecond it takes, free of charge. */
export async function offerLoop(client: Client, runLimitMs: number, maker = 'maker'): Promise<{ token: string; planId: string }> {
  const { token } = await signUp(client, maker);
  const made = 'mutation { createModel(input: { name: "loop" }) { model { id } } createUpload { upload { id } url } }';
  const { createModel, createUpload } = await client.ask<{
    createModel: { model: Node };
    createUpload: { upload: Node; url: string };
  }>(made, {}, token);
  await fetch(createUpload.url, { method: 'PUT', body: new Uint8Array(loopModel()) });
  const modelId = createModel.model.id;
  const version = 'mutation ($input: CreateModelVersionInput!) { createModelVersion(input: $input) { modelVersion { state } } }';
  await client.ask(version, { input: { modelId, uploadId: createUpload.upload.id, runLimitMs } }, token);
  const publish = 'mutation ($input: PublishListingInput!) { publishListing(input: $input) { model { plans { id } } } }';
  const { publishListing } = await client.ask<{ publishListing: { model: { plans: Node[] } } }>(
    publish,
    { input: { modelId, plans: [{ name: 'free', unitPriceNanos: '0' }] } },
    token,
  );
  return { token, planId: publishListing.model.plans[0]?.id ?? '' };
}
