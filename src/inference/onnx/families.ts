const words = (text: string): string[] => text.trim().split(/\s+/);

/** One element of the result from one of the first input. */
export const UNARY: ReadonlySet<string> = new Set(
  words(`
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log
    Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
    IsNaN IsInf com.microsoft.Gelu com.microsoft.QuickGelu ai.onnx.ml.Binarizer`),
);

/** One element of the result from one of each input, shapes broadcast. */
export const ELEMENTWISE: ReadonlySet<string> = new Set(
  words(`
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow
    Sub Sum Where Xor`),
);

/** Elementwise ones that answer true or false. */
export const TRUTHS: ReadonlySet<string> = new Set(words('IsNaN IsInf Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not'));

export const REDUCTIONS: ReadonlySet<string> = new Set(
  words(`
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare`),
);
