/** Money is whole billionths ("nanos") of one currency unit, as bigint. No float ever holds money. */
export type Money = { nanos: bigint; currency: string };

/** As the API shows it. */
export function showMoney(money: Money): { nanos: string; currency: string } {
  return { nanos: money.nanos.toString(), currency: money.currency };
}
