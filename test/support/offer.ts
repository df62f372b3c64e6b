import { loopModel } from '../inference/tiny-models.ts';
import type { Client } from './client.ts';
import { signUp } from './people.ts';

type Node = { id: string };

/** `maker/loop`, whose input says how many turns of about a microsecond it takes, free of charge. */
export function offerLoop(client: Client, runLimitMs: number, maker = 'maker'): Promise<{ token: string; planId: string }> {
  return offer(client, { maker, name: 'loop', file: loopModel(), bounds: { runLimitMs } });
}

type Offer = { maker: string; name: string; file: Uint8Array; bounds: { runLimitMs?: number; maxBatchRows?: number } };

/** A model of a new tenant, published free of charge. */
export async function offer(client: Client, { maker, name, file, bounds }: Offer): Promise<{ token: string; planId: string }> {
  const { token } = await signUp(client, maker);
  const made = 'mutation ($name: String!) { createModel(input: { name: $name }) { model { id } } createUpload { upload { id } url } }';
  const { createModel, createUpload } = await client.ask<{
    createModel: { model: Node };
    createUpload: { upload: Node; url: string };
  }>(made, { name }, token);
  await fetch(createUpload.url, { method: 'PUT', body: new Uint8Array(file) });
  const modelId = createModel.model.id;
  const version = 'mutation ($input: CreateModelVersionInput!) { createModelVersion(input: $input) { modelVersion { state } } }';
  await client.ask(version, { input: { modelId, uploadId: createUpload.upload.id, ...bounds } }, token);
  const publish = 'mutation ($input: PublishListingInput!) { publishListing(input: $input) { model { plans { id } } } }';
  const { publishListing } = await client.ask<{ publishListing: { model: { plans: Node[] } } }>(
    publish,
    { input: { modelId, plans: [{ name: 'free', unitPriceNanos: '0' }] } },
    token,
  );
  return { token, planId: publishListing.model.plans[0]?.id ?? '' };
}
