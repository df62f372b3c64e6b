/** What the bench uses of autocannon, which ships no types. */
declare module 'autocannon' {
  type Options = {
    url: string;
    method: 'POST';
    headers: Record<string, string>;
    body: string;
    connections: number;
    duration: number;
    /** Seconds until a request counts as failed. */
    timeout: number;
    verifyBody(body: string): boolean;
  };
  type Result = { errors: number; timeouts: number; mismatches: number; non2xx: number };
  type Instance = {
    on(event: 'response', heard: (client: unknown, status: number, bytes: number, responseMs: number) => void): void;
    on(event: 'done', heard: (result: Result) => void): void;
  };
  function autocannon(options: Options): Instance;
  export = autocannon;
}
