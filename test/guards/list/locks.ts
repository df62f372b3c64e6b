import { type Guard, guardsOf } from '../guard.ts';

export const locks: Guard[] = [];
