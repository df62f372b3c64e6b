import { type Guard, guardsOf } from '../guard.ts';

export const functions: Guard[] = [];
