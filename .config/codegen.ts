import { readFileSync } from 'node:fs';
import type { CodegenConfig } from '@graphql-codegen/cli';

const config: CodegenConfig = {
  // The fields of LiveQuery are resolved as those of Query are: graphql-js's own subscriptions have no part in it.
  schema: readFileSync('schema.graphql', 'utf8').replace(/^ {2}subscription: .*\n/m, ''),
  // Else the type Subscription is taken for the root of subscription operations, whatever the schema says.
  config: { useSchemaDefinition: false },
  generates: {
    'src/generated/schema.ts': {
      plugins: ['typescript', 'typescript-resolvers'],
      config: {
        useTypeImports: true,
        avoidOptionals: { defaultValue: true },
        enumsAsTypes: true,
        strictScalars: true,
        contextType: '../graphql/context.ts#GraphQLContext',
        scalars: { ID: 'string', DateTime: { input: 'Date', output: 'Date' }, TensorData: 'unknown', JSON: 'unknown' },
        mappers: {
          Tenant: '../tenancy/tenancy.ts#Tenant as TenantParent',
          User: '../tenancy/tenancy.ts#User as UserParent',
          Membership: '../tenancy/tenancy.ts#Membership as MembershipParent',
          Viewer: '../access/access.ts#Principal',
          ApiKey: '../access/access.ts#ApiKeyView',
          Model: '../catalog/catalog.ts#ModelView',
          ModelAlias: '../generated/prisma/client.ts#ModelAlias as ModelAliasParent',
          Suspension: '../generated/prisma/client.ts#Suspension as SuspensionParent',
          HostedVersion: '../catalog/catalog.ts#HostedVersion as HostedVersionParent',
          ModelVersion: '../catalog/catalog.ts#ModelVersionView',
          Plan: '../catalog/catalog.ts#PlanView',
          Subscription: '../catalog/catalog.ts#SubscriptionView',
          Upload: '../catalog/catalog.ts#UploadView',
          Wallet: '../billing/billing.ts#WalletView',
          Transfer: '../billing/billing.ts#TransferView',
          ClosedPeriod: '../billing/billing.ts#ClosedPeriod as ClosedPeriodParent',
          UsageReport: '../usage/usage.ts#UsageReport as UsageReportParent',
          UsageLimit: '../usage/usage.ts#LimitView',
          UsageAlert: '../usage/usage.ts#AlertView',
          UsageRow: '../usage/usage.ts#UsageRow as UsageRowParent',
          Prediction: '../prediction/prediction.ts#Prediction as PredictionParent',
          Tensor: '../inference/inference.ts#Tensor as TensorParent',
          SignatureTensor: '../inference/inference.ts#SignatureTensor as SignatureTensorParent',
          Signature: '../inference/inference.ts#Signature as SignatureParent',
          Work: '../training/training.ts#WorkView',
          WorkUsage: '../training/training.ts#WorkUsage as WorkUsageParent',
          Dataset: '../training/training.ts#DatasetView',
          TrainingRun: '../training/training.ts#TrainingRunView',
          Evaluation: '../training/training.ts#EvaluationView',
          Optimization: '../training/training.ts#OptimizationView',
          DeploymentRule: '../training/training.ts#DeploymentRuleView',
          Deployment: '../training/training.ts#DeploymentView',
          Money: '../base/money.ts#Money as MoneyParent',
        },
        maybeValue: 'T | null',
        inputMaybeValue: 'T | null | undefined',
      },
    },
  },
};
export default config;
